from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.text_blocks import MAX_BLOCK_BYTES, TextBlocks


def blocks_of(text: str) -> list[tuple[int, str]]:
    packer = TextBlocks()
    blocks: list[tuple[int, str]] = []
    for row, line in enumerate(text.split("\n"), start=1):
        blocks += packer.add(line + "\n", row)
    return blocks + list(packer.flush())


def test_paragraphs_are_packed_up_to_the_block_size() -> None:
    paragraph = "word " * 199 + "last"
    blocks = blocks_of("\n\n".join([paragraph] * 10))
    assert [text.count("last") for _, text in blocks] == [5, 5]
    assert [row for row, _ in blocks] == [1, 11]


def test_a_paragraph_above_the_block_size_stays_whole() -> None:
    lines = "\n".join(["a line of it"] * 1000)
    assert blocks_of(f"{lines}\n\nnext") == [(1, lines), (1002, "next")]


def test_a_paragraph_above_the_limit_is_cut_at_lines() -> None:
    line = "x" * 999
    blocks = blocks_of("short\n\n" + "\n".join([line] * 200))
    assert blocks[0] == (1, "short")
    assert all(set(text.split("\n")) == {line} for _, text in blocks[1:])
    assert all(len(text) <= MAX_BLOCK_BYTES for _, text in blocks)
    rows = [row for row, _ in blocks[1:]]
    assert rows == [3, 3 + 65, 3 + 130, 3 + 195]


def test_a_line_above_the_limit_is_cut_at_spaces() -> None:
    blocks = blocks_of("wörd " * 30_000)
    assert {word for _, text in blocks for word in text.split(" ")} == {"wörd"}
    assert [row for row, _ in blocks] == [1] * len(blocks)


def test_a_word_above_the_limit_is_cut_between_characters() -> None:
    word = "a" + "é" * 80_000
    assert "".join(text for _, text in blocks_of(word)) == word


LINES = st.lists(
    st.one_of(st.just(""), st.just("  "), st.text("aé\t 𝄞", max_size=40).map(lambda s: s * 90)), max_size=60
)


@given(LINES)
def test_no_word_is_lost_and_rows_point_at_the_beginning(lines: list[str]) -> None:
    blocks = blocks_of("\n".join(lines))
    assert " ".join(text for _, text in blocks).split() == " ".join(lines).split()
    assert all(lines[row - 1].startswith(text.split("\n")[0]) for row, text in blocks)
