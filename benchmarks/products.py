"""`python -m benchmarks.products`: the kernels for one row times each matrix of a model, as a decoded token needs them.

Each kernel runs in a process of its own, as the processor is and limited to AVX2, beside the sum of a large buffer: the
share of the read bandwidth is that of the same moment. numba is measured where it is installed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.demands import run_command
from parakeet.benchmarks.process import Answer, ask_once, print_result
from parakeet.benchmarks.processor import ISA_LIMITS, this_processor
from parakeet.benchmarks.timing import Sample, in_rounds, seconds_of
from parakeet.cli.bench import THREADS
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent, render_table
from parakeet.generation.decoder import DTYPES, matrix_maker
from parakeet.generation.kernels import library
from parakeet.generation.matrices import Arena
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe

GROUP = 32
"""Weights that share a scale in int4."""
PROMPT = 512
BUFFER_BYTES = 1 << 28
SECONDS = 60.0
"""For one kernel; slower ones are left out."""
OUTLIERS, OUTLIER = 4, 30.0
"""Activations that are this many times as large as the others: transformers have such columns."""

Product = Callable[[Tensor], Tensor]
"""x (n, columns) fp32 times the transposed weight: (n, rows)."""


@dataclass(frozen=True)
class Kernel:
    """`prepare` makes the product of a weight (rows, columns) fp32, which may be changed or kept."""

    bytes_per_weight: float
    prepare: Callable[[Tensor], Product]
    note: str = ""


@click.command("products")
@click.option("--recipe", "recipe_name", default="parakeet-378m", show_default=True, help="Recipe of the shape.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True, help="Samples of each number.")
@click.option("--kernel", "names", multiple=True, metavar="NAME", help="A kernel, may be repeated.  [default: all]")
@THREADS
def main(recipe_name: str, rounds: int, names: tuple[str, ...], threads: int) -> None:
    """Time the kernels that a step of decoding could use, as they are and limited to AVX2."""
    threads = threads or torch.get_num_threads()
    recipe = load_recipe(recipe_name)
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    if unknown := set(names) - KERNELS.keys():
        raise ParakeetError(f"No kernel is named {', '.join(sorted(unknown))}. There are: {', '.join(KERNELS)}.")
    click.echo(f"{recipe.name}: one row times each matrix, {threads} threads, {rounds} rounds")
    click.echo(f"processor: {this_processor()}\n")
    common = {"shapes": shapes_of(config), "layers": config.layers, "rounds": rounds}
    rows = []
    with Progress().task("Measuring", 2 * len(names or KERNELS), "kernels") as task:
        for limit in ("", *ISA_LIMITS):
            for name in names or KERNELS:
                environment = ISA_LIMITS[limit] if limit else None
                request = common | {"kernel": name}
                answer = ask_once(f"{__spec__.name}:measure", request, threads, SECONDS, environment)
                rows.append({"kernel": name, "limit": limit, **answer})
                task.advance()
    for limit in ("", *ISA_LIMITS):
        columns = [
            f"limited to {limit}" if limit else "as it is",
            "least ms",
            "GB/s",
            "of read",
            f"{PROMPT} rows, TFLOP/s",
        ]
        columns += ["error", "with outliers", ""]
        shown = [_shown(row) for row in rows if row["limit"] == limit]
        click.echo(f"{render_table(columns, shown, right=range(1, 7))}\n")
    result = {"benchmark": "products", "recipe": recipe.name, "processor": str(this_processor()), "rows": rows}
    print_result(result | {"rounds": rounds}, threads)


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of a layer's matrices, and of the head."""
    d = config.width
    layer = {"projections": (3 * d, d), "output": (d, d), "input": (4 * d, d), "down": (d, 4 * d)}
    return layer | {"head": (config.vocabulary_rows, d)}


def _shown(row: Mapping[str, Any]) -> list[str]:
    if "refused" in row:
        return [row["kernel"], *[""] * 6, row["refused"]]
    # The least: with other load, one thread of two waits for a core, and the median says how often.
    _, least, _ = row["seconds"]
    rate = row["bytes"] / least
    figures = (f"{1e3 * least:.1f}", f"{rate / 1e9:.1f}", format_percent(rate / row["read_bandwidth"], 0))
    errors = (f"{row[key]:.1e}" for key in ("error", "outlier_error"))
    return [row["kernel"], *figures, f"{row['prompt_rate'] / 1e12:.3f}", *errors, KERNELS[row["kernel"]].note]


def measure(request: dict[str, Any]) -> Answer:
    """In a process: one kernel with weights of its own for every matrix, so that memory is read and not a cache."""
    kernel, shapes = KERNELS[request["kernel"]], dict(request["shapes"])
    head = shapes.pop("head")
    layer = [tuple(shape) for shape in shapes.values()]
    wanted = [*layer * request["layers"], tuple(head)]
    products = [(kernel.prepare(_weight(*shape)), torch.randn(1, shape[1])) for shape in wanted]
    n_bytes = kernel.bytes_per_weight * sum(rows * columns for rows, columns in wanted)
    buffer = torch.ones(BUFFER_BYTES // 4)

    def step() -> None:
        for product, x in products:
            product(x)

    step()
    found = in_rounds({"read": buffer.sum, "step": step}, "cpu", request["rounds"])

    some = products[: len(layer)]
    prompts = [torch.randn(PROMPT, x.shape[1]) for _, x in some]

    def prompt() -> None:
        for (product, _), x in zip(some, prompts, strict=True):
            product(x)

    prompt()
    flops = 2 * PROMPT * sum(rows * columns for rows, columns in layer)
    answer = {"bytes": n_bytes, "seconds": Sample.of(found["step"]).as_json()}
    answer["read_bandwidth"] = BUFFER_BYTES / min(found["read"])
    answer["prompt_rate"] = flops / min(seconds_of("cpu", prompt) for _ in range(2))
    return answer | dict(zip(("error", "outlier_error"), _errors(kernel, *layer[2]), strict=True))


def _weight(rows: int, columns: int) -> Tensor:
    """Random numbers; those of 64 rows again and again, which is fast to make and read as slowly."""
    generator = torch.Generator().manual_seed(rows)
    return (0.02 * torch.randn(64, columns, generator=generator)).repeat(-(-rows // 64), 1)[:rows].contiguous()


def _errors(kernel: Kernel, rows: int, columns: int) -> Iterator[float]:
    """Relative errors in norm for normal activations, and for those with a few large columns."""
    x = torch.randn(8, columns, generator=torch.Generator().manual_seed(1))
    with_outliers = x.clone()
    with_outliers[:, :: columns // OUTLIERS] *= OUTLIER
    weight = _weight(rows, columns)
    for some in (x, with_outliers):
        exact = some.double() @ weight.double().t()
        yield float((kernel.prepare(weight.clone())(some).double() - exact).norm() / exact.norm())


def _linear(dtype: torch.dtype) -> Callable[[Tensor], Product]:
    def prepare(weight: Tensor) -> Product:
        converted = weight.to(dtype)
        return lambda x: F.linear(x.to(dtype), converted)

    return prepare


def _vector(dtype: torch.dtype) -> Callable[[Tensor], Product]:
    def prepare(weight: Tensor) -> Product:
        converted = weight.to(dtype)

        def product(x: Tensor) -> Tensor:
            return torch.mv(converted, x[0].to(dtype))[None] if len(x) == 1 else F.linear(x.to(dtype), converted)

        return product

    return prepare


def _onednn_dense(dtype: torch.dtype) -> Callable[[Tensor], Product]:
    def prepare(weight: Tensor) -> Product:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), 1)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, None, "none", [], "")

    return prepare


def _by_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """int8 and the scale of each row: values ≈ q · scale."""
    scales = (values.abs().amax(1) / 127).clamp_min(1e-12)
    return (values / scales[:, None]).round().to(torch.int8), scales


def _int8_weight_only(weight: Tensor) -> Product:
    numbers, scales = _by_rows(weight)
    scales = scales.bfloat16()
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), numbers, scales)


def _int4_weight_only(weight: Tensor) -> Product:
    rows, columns = weight.shape
    groups = weight.view(rows, columns // GROUP, GROUP)
    scales = groups.abs().amax(-1) / 7
    numbers = (groups / scales[..., None] + 8).round().clamp(0, 15).view(rows, columns).to(torch.int32)
    packed = torch._convert_weight_to_int4pack_for_cpu(numbers, 1)
    pairs = torch.stack([scales, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous().bfloat16()
    return lambda x: torch._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, GROUP, pairs)


def _linear_dynamic(engine: str) -> Callable[[Tensor], Product]:
    def prepare(weight: Tensor) -> Product:
        torch.backends.quantized.engine = engine
        _, scales = _by_rows(weight)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        packed = torch.ops.quantized.linear_prepack(
            torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8), None
        )
        # Activations take 7 bits: without VNNI, sums of 8 would overflow 16 bits.
        return lambda x: torch.ops.quantized.linear_dynamic(x, packed, True)

    return prepare


def _onednn_int8(weight: Tensor) -> Product:
    numbers, scales = _by_rows(weight)
    packed = torch.ops.onednn.qlinear_prepack(numbers, None)
    zeros = torch.zeros(len(scales), dtype=torch.int64)

    def product(x: Tensor) -> Tensor:
        low, high = (float(end) for end in x.aminmax())
        scale = max(high - low, 1e-12) / 255
        zero = round(-low / scale)
        rounded = (x / scale + zero).round_().clamp_(0, 255).to(torch.uint8)
        return torch.ops.onednn.qlinear_pointwise(
            rounded, scale, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def _int_mm(weight: Tensor) -> Product:
    numbers, scales = _by_rows(weight)

    def product(x: Tensor) -> Tensor:
        rounded, own = _by_rows(x)
        return torch._int_mm(rounded, numbers.t()) * (own[:, None] * scales)

    return product


def _numba(weight: Tensor) -> Product:
    if find_spec("numba") is None:
        raise ParakeetError("numba is not installed")
    import numba
    import numpy as np

    numba.set_num_threads(torch.get_num_threads())

    @numba.njit(parallel=True, fastmath=True, cache=False)
    def multiply(weight: Any, scales: Any, x: Any, y: Any) -> None:
        for i in range(x.shape[0]):
            for row in numba.prange(weight.shape[0]):
                total = np.int32(0)
                for column in range(weight.shape[1]):
                    total += np.int32(weight[row, column]) * np.int32(x[i, column])
                y[i, row] = total * scales[row]

    numbers, scales = _by_rows(weight)
    arrays = numbers.numpy(), scales.numpy()

    def product(x: Tensor) -> Tensor:
        rounded, own = _by_rows(x)
        y = torch.empty(len(x), len(numbers))
        multiply(*arrays, rounded.numpy(), y.numpy())
        return y * own[:, None]

    return product


def _ours(dtype: str) -> Callable[[Tensor], Product]:
    def prepare(weight: Tensor) -> Product:
        if (kernels := library()) is None:
            raise ParakeetError("no C compiler was found")
        arena = Arena(4 * weight.numel() + (1 << 20), weight.device)
        return matrix_maker(dtype, kernels)(weight, arena).product

    return prepare


OURS = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5625}
ROUNDS_X = "rounds activations to int8 too"
KERNELS = {
    "F.linear fp32": Kernel(4, _linear(torch.float32)),
    "torch.mv fp32": Kernel(4, _vector(torch.float32)),
    "oneDNN fp32, prepacked": Kernel(4, _onednn_dense(torch.float32)),
    "F.linear bf16": Kernel(2, _linear(torch.bfloat16)),
    "torch.mv bf16": Kernel(2, _vector(torch.bfloat16)),
    "oneDNN bf16, prepacked": Kernel(2, _onednn_dense(torch.bfloat16), "no parts of a packed matrix"),
    "F.linear fp16": Kernel(2, _linear(torch.float16)),
    "_weight_int8pack_mm": Kernel(1, _int8_weight_only, "sizes that are multiples of 16"),
    "_weight_int4pack_mm_for_cpu": Kernel(0.625, _int4_weight_only, "sizes that are multiples of 64"),
    "linear_dynamic, FBGEMM": Kernel(1, _linear_dynamic("fbgemm"), f"{ROUNDS_X}, to 7 bits of the whole batch"),
    "linear_dynamic, oneDNN": Kernel(1, _linear_dynamic("onednn"), f"{ROUNDS_X}, of the whole batch"),
    "onednn.qlinear_pointwise": Kernel(1, _onednn_int8, f"{ROUNDS_X}, of the whole batch"),
    "_int_mm": Kernel(1, _int_mm, ROUNDS_X),
    "numba int8": Kernel(1, _numba, f"{ROUNDS_X}; another dependency"),
    **{f"ours {dtype}": Kernel(OURS[dtype], _ours(dtype), ROUNDS_X if dtype[0] == "i" else "") for dtype in DTYPES},
}
"""By name. `ours` are Parakeet's own, parakeet/generation/kernels.c."""


if __name__ == "__main__":
    run_command(main)
