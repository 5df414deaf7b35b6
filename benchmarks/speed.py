"""Tokens per CPU second of a training step, beside another checkout of Parakeet.

.venv/bin/python -m benchmarks.speed --against CHECKOUT [--rounds N] [--optimizer adamw]

Both checkouts train the demo's shape (4 layers × 256, a vocabulary of 4,096) in fp32 with one thread and the settings
that each chooses for this machine, on sequences of 256 and 1,024 random ids: one document a sequence, and several of
100 tokens. A process of each makes a step in turn, so that another load slows both alike.
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
import json, sys, time
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
length, document, tokens, optimizer = json.loads(sys.argv[1])
config = ModelConfig(layers=4, heads=4, width=256, context=1024, vocabulary_rows=4160)
settings = Training(
    tokens=tokens, batch_tokens=tokens, micro_batch_tokens=tokens, learning_rate=1e-3, optimizer=optimizer, device="cpu"
)
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
step()
print(json.dumps(0.0), flush=True)
for line in sys.stdin:
    began = time.process_time()
    step()
    print(json.dumps(time.process_time() - began), flush=True)
"""


class Trainer:
    """A process of a checkout that makes a step whenever it is asked."""

    def __init__(self, checkout: Path, case: tuple[int, int], optimizer: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, json.dumps([*case, STEP_TOKENS, optimizer])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=checkout, env=environment, stdin=pipe, stdout=pipe, text=True)
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
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--optimizer", default="adamw")
    options = parser.parse_args()
    rows, results = [], []
    for case in CASES:
        trainers = [Trainer(checkout, case, options.optimizer) for checkout in (HERE, options.against.resolve())]
        seconds = [[trainer.step() for trainer in trainers] for _ in range(options.rounds)]
        for trainer in trainers:
            trainer.close()
        mine, other = (STEP_TOKENS / statistics.median(times) for times in zip(*seconds, strict=True))
        ratios = sorted(theirs / ours for ours, theirs in seconds)
        middle = statistics.median(ratios)
        spread = f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
        rows.append((f"{case[0]:,}", f"{case[1]:,}", f"{mine:,.0f}", f"{other:,.0f}", f"{middle:.2f}", spread))
        results.append({"length": case[0], "document": case[1], "this": mine, "other": other, "ratio": middle})
    columns = ("sequence", "document", "tokens per CPU second", "the other's", "ratio", "middle half")
    print(render_table(columns, rows, right=(0, 1, 2, 3, 4)))
    print_result({"benchmark": "speed", "optimizer": options.optimizer, "results": results}, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
