"""Prompts that the text must not contain, because `evaluation` judges the replies to them.

Only hashes are kept, so that whoever writes the text need not know the prompts. After a change of the prompts,
tests/evaluation says what the list should be.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b

from parakeet.data.synthetic.facts import words

LONGEST = 4
"""Most turns of a user in one item."""


def normal(text: str) -> str:
    """Without case, punctuation and spaces; a text of nothing else stays as it is."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", ""))) or text


def digest(turns: Sequence[str]) -> str:
    """Of what a user says in one conversation, turn by turn, in `normal` form."""
    return blake2b("\n".join(turns).encode(), digest_size=6).hexdigest()


def holds_reserved(turns: Sequence[str]) -> bool:
    """Whether a user's turns, one after the other, hold a reserved prompt or a reserved sequence of them."""
    plain = [normal(turn) for turn in turns]
    return any(
        digest(plain[begin : begin + size]) in RESERVED
        for size in range(1, LONGEST + 1)
        for begin in range(len(plain) - size + 1)
    )


RESERVED = frozenset(
    words("""
    004399ae2462 0046dacdd4de 052e5c25f891 070692871dd9 070915e4f26b 08a7c69e10bc 0969c9b716ad 09909594d48c
    0bdb16ac1b2e 0e7368fcefab 0ef3100c0c4e 0f00a5baf02c 0ffbad8f23de 102dc57f9a75 10bb56d16397 113bf1769802
    12d229d11ad9 1477e862b345 15f027c56a41 16fc5e17fce3 17008e6de798 1762f3cb2d42 1a8df6359224 1d527a8318a3
    1db2408e34cd 233010fb929c 2627cb18b0a6 269e8efab1b2 272c43329eb3 274bacb77ef3 2815108fe29d 2949cbdd9a8f
    2a0998cc5f16 2b227d64d273 2b9522383dbb 2df5ac0705dd 2f9f493a5493 3001d0551e1f 313f51b48a64 32d4ec2a442b
    32f573883a7e 34ca1c1d2b53 34fadfc389ab 352924b3f837 3d2fc9af3c3c 3e02fb696a00 3f623bee87be 40470f37b428
    4099e6209162 428d8747b702 42dfbd5999b0 432359dd460d 46a8ce7cc867 46c6b1ab9e94 46c8c4d9cefc 47a4f28712e0
    4bb5acc52eee 4beac379bbf0 4fd874152c5e 5449f3933519 554da445cfb3 58b9a71ba49e 58ceb329817b 59e212b6d755
    5b3ad777d84a 5cb0e3082606 5e84c1f9b26e 5f31a76b9490 5f754d64ce0d 65ac4f5993eb 665b560f8735 66cf68415a7e
    6874ed24bad7 6b58d80a8036 6cb627456579 6cfcf990f0a7 6da90600b66c 6eb4cb52571a 7492e636946e 7543964c3d6c
    78a7ecc8bcf4 79cf84dee9e1 7a66a56a372f 7b159d458de7 7d9416d498b0 7e3262cf2c94 7ec43425c09b 7ed41336c918
    80c53df4610c 856d9177a877 8687dd386f7a 8a0d87c07413 8a2d7beb5c20 8c883b10d10a 8cc0f49de754 8d5cff7869f3
    90f141a6b950 9199b89892ba 924acf618c10 928834fbb156 939a76914554 93f26de31375 95f9eee1587b 96e0e2886e67
    9766fa24765c 992022e954c0 9a819f34b538 9c01d3c9451a 9cc59d8c01d3 9d3e1a90ba2f 9d4bc8e29d48 9e05a873cae0
    a13d1de63082 a38bcf3ac4b4 a3b8a001a436 a557b3939f98 a61d66b7fe25 a6364876f7dd a63922b28eba a6f60684e8bc
    a839822f9e0b a87ae6c670c8 a9a3e015f62f ab3bb0420bdf ab914a4f606c acd0436d90f8 ae4da69d6198 aea814d0f30c
    b024da6d3b39 b334c76bb69a b39ac3720f3d b3dab216143e b3fb92c74fe3 b4f5def8b209 b5505abb9862 b587f3665b12
    b92aa1cf4e7c b9fb36bf32a5 ba6cc54dbbde ba947067914d bad8f21c6a77 bd3cf4fc1dcc be429d2c4ed1 c229eba774e4
    c254e08a2c4d c33eaf0bd624 c4906a9f5273 c5d4011b94ab c8b9beff2f08 c8bde413bbe1 caf0a7aabcb4 ccb3542b072f
    ccb9e74aa38f cda9b9adbc89 cf3202530477 cfe1bdae7fdf d5a80d30d5db d615197d46e1 d694d5e832b4 d6f5ab83597c
    d976038da8e1 dba7de6aea73 de2fb7e55165 e4c4379ef117 e50cd77047db e61adfff7000 e64af0912662 e6dcfcc23aeb
    e9cd5868f6e0 ea0c2eb48196 eb487f6fff92 ecdafdca4ab6 ed726e584a28 ef47cbed946b efd16da284de f154c411dca7
    f16e8fab9a34 f1dc63ea6e18 f27b55f2d7b9 f3d48855cfab f798ea360039 f8a1c7c17fd0 f8de1c4ba437 f9b059c5bd70
    fb3aaa965e87 fbd439655a33 fc7f22d00f5e fcbe9dc148cc
""")
)
