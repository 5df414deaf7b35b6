"""Random weights in the layout of the original project's checkpoint, written straight from the table of facts.

    python tests/original_checkpoint.py OUT.pth [--layers 18 --heads 18 --width 1152 --context 8192 --seed 1]

Shares no code with parakeet, so that the import's tests compare two sources. Heads and context change nothing in the
file; they belong in its name, which `original_name` makes.
"""

import argparse
import math
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

ROWS = 100_288


def original_name(layers: int, heads: int, width: int, context: int) -> str:
    """A file name in the form of the original's."""
    return f"parakeet8k-c{context}-d{width}-fexp4_v{ROWS}_h{heads}_l{layers}-alibi+gqa2.pth"


def original_state(layers: int = 2, width: int = 16, seed: int = 1) -> "OrderedDict[str, Tensor]":
    """A state dict as the original's module returns it: tied and shared tensors appear several times.

    Norms are not all ones, so that a test notices a swapped or missing one. Memory: the weights once.
    """
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, deviation: float = 0.02) -> Tensor:
        return torch.empty(rows, columns).normal_(0.0, deviation, generator=generator)

    def vector(mean: float) -> Tensor:
        return torch.empty(width).normal_(mean, 0.1, generator=generator)

    residual = 0.02 / math.sqrt(2 * layers)
    state = OrderedDict()
    state["transformer.wte.weight"] = matrix(ROWS, width)
    state["transformer.wte.norm.weight"] = vector(1.0)
    state["transformer.wte.norm.bias"] = vector(0.0)
    for layer in range(layers):
        at = f"transformer.h.{layer}."
        state[at + "ln_1.weight"] = vector(1.0)
        shared = state[f"transformer.h.{layer - 1}.attn.c_kv.weight"] if layer % 2 else matrix(2 * width, width)
        state[at + "attn.c_kv.weight"] = shared
        state[at + "attn.c_query.weight"] = matrix(width, width)
        state[at + "attn.c_proj.weight"] = matrix(width, width, residual)
        state[at + "ln_2.weight"] = vector(1.0)
        state[at + "mlp.c_fc.weight"] = matrix(4 * width, width)
        state[at + "mlp.c_proj.weight"] = matrix(width, 4 * width, residual)
    state["transformer.ln_f.weight"] = vector(1.0)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state._metadata = module_versions(state)
    return state


def module_versions(keys: Iterable[str]) -> OrderedDict[str, dict[str, int]]:
    """The attribute `_metadata` of what torch's Module.state_dict() returns; torch.save keeps it.

    A real one also names modules without tensors, such as dropout.
    """
    modules = [""]
    for key in keys:
        parts = key.split(".")[:-1]
        modules += [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return OrderedDict((module, {"version": 1}) for module in dict.fromkeys(modules))


def parameter_count(state: "OrderedDict[str, Tensor]") -> int:
    """Tied and shared tensors counted once."""
    return sum({tensor.data_ptr(): tensor.numel() for tensor in state.values()}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Random weights in the original project's layout.")
    parser.add_argument("output", type=Path, help="A .pth file, or a folder for one with a name like the original's.")
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--heads", type=int, default=18)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    state = original_state(asked.layers, asked.width, asked.seed)
    output: Path = asked.output
    if output.is_dir():
        output = output / original_name(asked.layers, asked.heads, asked.width, asked.context)
    torch.save(state, output)
    print(f"{output}: {parameter_count(state):,} parameters, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
