"""Whether FlexAttention runs on a device. It needs Triton, a C compiler and a recent GPU, and may still not compile."""

import importlib.util
import os
import shutil
import sys
import textwrap

import torch

from parakeet.model.attention import alibi_slopes, attend, prepare_mask
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Precision

CAPABILITY = (8, 0)
"""Oldest CUDA compute capability that Triton compiles the bf16 kernels for, and that has units for bf16."""
LONGEST_REASON = 300
"""Characters of an error that are shown: Inductor's repeat the kernel's source."""


def flex_failure(
    device: torch.device, config: ModelConfig, precision: Precision, sequences: int, sequence_length: int
) -> str | None:
    """Why FlexAttention does not run on this CUDA device, as a sentence; None if it does.

    Compiles it and runs it forward and backward once, on so many sequences: training that compiles no blocks uses the
    same kernels. Takes some ten seconds.
    """
    reason = _obstacle(device)
    if reason is not None:
        return reason
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        # The strides of the model's: one product for the queries, one for keys and values.
        widths = (config.width, 2 * config.width)
        products = [
            torch.zeros(sequences, sequence_length, width, dtype=dtype, device=device, requires_grad=True)
            for width in widths
        ]
        parts = (products[0], *products[1].chunk(2, dim=-1))
        shape = (sequences, sequence_length, config.heads, config.head_width)
        queries, keys, values = (part.view(shape).transpose(1, 2) for part in parts)
        documents = torch.zeros(sequences, sequence_length, dtype=torch.int64, device=device)
        mask = prepare_mask("flex", alibi_slopes(config.heads).to(device), documents, config.head_width, dtype)
        attend(queries, keys, values, mask).sum().backward()
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return None  # The forecast's business: a step will explain it.
    except Exception as error:  # Dynamo, Inductor, Triton, the C compiler and the driver have errors of their own.
        shown = textwrap.shorten(str(error), LONGEST_REASON) or type(error).__name__
        return f"{shown.rstrip('.')}."
    return None


def _obstacle(device: torch.device) -> str | None:
    """What FlexAttention lacks here, found without compiling."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed."
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, and Triton needs 8.0."
    if sys.platform == "win32":
        return None  # Triton for Windows brings a compiler.
    # Triton's own choice: CC as it is, then gcc, then clang.
    named = os.environ.get("CC")
    if named is not None:
        return None if shutil.which(named) else f"the C compiler that CC names, {named!r}, was not found."
    if shutil.which("gcc") or shutil.which("clang"):
        return None
    return "Triton needs a C compiler. Install gcc or clang, or set CC."
