"""Tokens per CPU second of a training step, beside another checkout of Parakeet and a GPT-2 as nanoGPT trains it.

.venv/bin/python -m benchmarks.speed --against CHECKOUT [--rounds N] [--optimizer adamw] [--precision auto|fp32]

All train 4 layers × 256, a vocabulary of 4,096, with one thread, on sequences of 256 and 1,024 random ids: one document
a sequence, and several of 100 tokens. The checkouts take the settings that each chooses for this machine. The GPT-2 has
the same width, depth, vocabulary, loss and clipping, in fp32 with AdamW; learnt positions instead of ALiBi, keys and
values of its own in every layer, and no mask between documents. A process of each makes a step in turn, so that another
load slows all alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from parakeet.benchmarks.process import print_result
from parakeet.formatting import render_table

HERE = Path(__file__).parents[1]
STEP_TOKENS = 1024
CASES = [(length, document) for length in (256, 1024) for document in (length, 100)]

CHILD = """
import importlib.util, json, sys, time
import torch
from torch import nn
torch.set_num_threads(1)
torch.set_flush_denormal(True)
from parakeet.model.config import ModelConfig
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.forecast import choose
from parakeet.training.optimizer import make_optimizer
length, document, tokens, optimizer, precision = json.loads(sys.argv[1])
config = ModelConfig(layers=4, heads=4, width=256, context=1024, vocabulary_rows=4160)
settings = Training(
    tokens=tokens, batch_tokens=tokens, micro_batch_tokens=tokens, learning_rate=1e-3, optimizer=optimizer, device="cpu"
)
if precision == "fp32":
    settings = settings.model_copy(update={"precision": "fp32"})
elif importlib.util.find_spec("parakeet.training.precision"):
    from parakeet.training.precision import compare_precisions
    settings = settings.model_copy(update={"precision": compare_precisions(config, torch.device("cpu")).fast})
model = Parakeet(config, choose(config, settings, length, 1 << 40, False).execution)
model.initialise(torch.Generator().manual_seed(1))
made = make_optimizer(model.train(), settings)
parameters = list(model.parameters())
ids = torch.randint(4096, (tokens // length, length + 1), generator=torch.Generator().manual_seed(2))
documents = (torch.arange(length) // document).expand(tokens // length, length).contiguous()
def step():
    hidden = model(ids[:, :-1].contiguous(), documents)
    backward_from_loss(
        hidden, model.embedding.weight, ids[:, 1:].contiguous(), ignore=-1, normaliser=tokens,
        rows=model.execution.loss_rows,
    )
    nn.utils.clip_grad_norm_(parameters, 1.0)
    made.step()
    made.zero_grad()
"""
PEER = """
import json, math, sys, time
import torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(1)
torch.set_flush_denormal(True)
length, document, tokens, optimizer, precision = json.loads(sys.argv[1])
LAYERS, HEADS, WIDTH, ROWS = 4, 4, 256, 4160
def linear(outputs, inputs):
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(made.weight, std=0.02)
    return made
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv, self.mixed = linear(3 * WIDTH, WIDTH), linear(WIDTH, WIDTH)
        self.up, self.down = linear(4 * WIDTH, WIDTH), linear(WIDTH, 4 * WIDTH)
    def forward(self, x):
        split = self.qkv(self.norms[0](x)).view(*x.shape[:2], 3, HEADS, -1).transpose(1, 3)
        out = F.scaled_dot_product_attention(*split.unbind(2), is_causal=True)
        x = x + self.mixed(out.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))
embedding, positions = (nn.Embedding(n, WIDTH) for n in (ROWS, length))
blocks, last = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH, bias=False)
model = nn.ModuleList([embedding, positions, blocks, last])
parameters = list(model.parameters())
made = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
ids = torch.randint(4096, (tokens // length, length + 1), generator=torch.Generator().manual_seed(2))
def step():
    x = last(blocks(embedding(ids[:, :-1]) + positions(torch.arange(length))))
    F.cross_entropy((x @ embedding.weight.T).flatten(0, 1), ids[:, 1:].flatten()).backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    made.step()
    made.zero_grad(set_to_none=True)
"""
LOOP = """
step()
print(json.dumps(0.0), flush=True)
for line in sys.stdin:
    began = time.process_time()
    step()
    print(json.dumps(time.process_time() - began), flush=True)
"""


class Trainer:
    """A process that makes a step whenever it is asked: of a checkout, or of the peer."""

    def __init__(self, checkout: Path | None, case: tuple[int, int], optimizer: str, precision: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout or HERE), "OMP_NUM_THREADS": "1"}
        code = (CHILD if checkout else PEER) + LOOP
        command = [sys.executable, "-c", code, json.dumps([*case, STEP_TOKENS, optimizer, precision])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=checkout or HERE, env=environment, stdin=pipe, stdout=pipe, text=True
        )
        self._answer()

    def step(self) -> float:
        """CPU seconds of a step."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        return float(json.loads(self._process.stdout.readline()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--rounds", type=int, default=12, help="at least 2")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument(
        "--precision", choices=("auto", "fp32"), default="auto", help="of both checkouts; the GPT-2 is in fp32"
    )
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the spread is measured")
    rows, results = [], []
    for case in CASES:
        trainers = [
            Trainer(checkout, case, options.optimizer, options.precision)
            for checkout in (HERE, options.against.resolve(), None)
        ]
        seconds = [[trainer.step() for trainer in trainers] for _ in range(options.rounds)]
        for trainer in trainers:
            trainer.close()
        speeds = [STEP_TOKENS / statistics.median(times) for times in zip(*seconds, strict=True)]
        other, peer = ([taken[n] / taken[0] for taken in seconds] for n in (1, 2))
        figures = (*speeds, statistics.median(other), statistics.median(peer))
        rows.append(
            (*(f"{value:,}" for value in case), *(f"{value:,.0f}" for value in speeds), _spread(other), _spread(peer))
        )
        names = ("this", "other", "gpt2", "over_other", "over_gpt2")
        results.append({"length": case[0], "document": case[1], **dict(zip(names, figures, strict=True))})
    columns = ("sequence", "document", "tokens per CPU second", "the other", "GPT-2", "over the other", "over GPT-2")
    print(render_table(columns, rows, right=(0, 1, 2, 3, 4, 5, 6)))
    print_result(
        {"benchmark": "speed", "optimizer": options.optimizer, "precision": options.precision, "results": results}, 1
    )
    return 0


def _spread(ratios: list[float]) -> str:
    """The median, and the middle half."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
