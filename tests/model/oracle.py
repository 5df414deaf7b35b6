"""The released Parakeet, plainly: the architecture's table in float64 numpy, in the layout of the original checkpoint.

It shares no code with the package, so that what agrees with it agrees with the table, not with itself. It is
meant to be compared with the table line by line; it loops over layers and heads and keeps no cache.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logits(
    weights: dict[str, Array], heads: int, ids: list[int], band: int | None = None, softmax_one: bool = False
) -> Array:
    """(length, vocabulary rows) logits behind every position.

    weights have the checkpoint's keys; Linear weights are (out, in). With a `band`, a position sees itself
    and the `band` positions before it, in every layer: band = context − 1 is what a rolling cache of
    `context` tokens leaves visible. With `softmax_one`, attention is softmax off by one.
    """
    w = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in weights.items()}
    x = layer_norm(w["transformer.wte.weight"][ids], w["transformer.wte.norm.weight"], w["transformer.wte.norm.bias"])
    for layer in range(layer_count(weights)):
        block = f"transformer.h.{layer}."
        normed = layer_norm(x, w[block + "ln_1.weight"])
        queries, keys_and_values = (normed @ w[block + f"attn.{part}.weight"].T for part in ("c_query", "c_kv"))
        x = x + attention(queries, keys_and_values, heads, band, softmax_one) @ w[block + "attn.c_proj.weight"].T
        hidden = gelu(layer_norm(x, w[block + "ln_2.weight"]) @ w[block + "mlp.c_fc.weight"].T)
        x = x + hidden @ w[block + "mlp.c_proj.weight"].T
    return layer_norm(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T


def attention(queries: Array, keys_and_values: Array, heads: int, band: int | None, softmax_one: bool) -> Array:
    """queries (length, width), keys and values (length, 2 · width), keys first; (length, width)."""
    length, width = queries.shape
    size = width // heads
    position = np.arange(length)
    distance = position[None, :] - position[:, None]  # j − i: zero or less for what came before
    hidden = (distance > 0) | (distance < -length if band is None else distance < -band)
    mixed = np.empty_like(queries)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        keys, values = keys_and_values[:, :width][:, part], keys_and_values[:, width:][:, part]
        slope = 2.0 ** (-8.0 * (head + 1) / heads)
        scores = queries[:, part] @ keys.T / math.sqrt(size) + slope * distance
        scores[hidden] = -np.inf
        most = scores.max(axis=1, keepdims=True)
        weight = np.exp(scores - most)
        divisor = weight.sum(axis=1, keepdims=True)
        if softmax_one:
            divisor += np.exp(-most)  # the 1 of 1 + Σ exp(x), over e^most like the rest
        mixed[:, part] = weight @ values / divisor
    return mixed


def layer_norm(x: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * weight + bias


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def layer_count(weights: dict[str, Array]) -> int:
    return sum(name.endswith(".ln_1.weight") for name in weights)


@dataclass(frozen=True)
class Case:
    """A model's sizes and a text's. The tokenizer defines the first `defined` ids; the other rows are left over."""

    name: str
    layers: int
    heads: int
    width: int
    rows: int
    defined: int
    length: int


# A key/value projection belongs to a pair of layers; with an odd number the last one has a layer for itself.
CASES = [
    Case("one layer", layers=1, heads=2, width=16, rows=64, defined=64, length=20),
    Case("one pair, one head", layers=2, heads=1, width=8, rows=64, defined=61, length=30),
    Case("three layers, three heads", layers=3, heads=3, width=24, rows=128, defined=70, length=33),
    Case("five layers, 18 heads", layers=5, heads=18, width=36, rows=192, defined=181, length=64),
    Case("six layers, 18 wider heads", layers=6, heads=18, width=72, rows=64, defined=33, length=100),
    Case("seven layers, five heads", layers=7, heads=5, width=40, rows=256, defined=193, length=50),
    Case("beyond 1,200 tokens", layers=3, heads=6, width=48, rows=320, defined=281, length=1_300),
    Case("beyond 1,200 tokens, 18 heads", layers=2, heads=18, width=36, rows=128, defined=120, length=1_300),
]


def shapes(layers: int, width: int, rows: int) -> dict[str, tuple[int, ...]]:
    """Every key of the checkpoint. Those of `lm_head` and `wte` hold one tensor, as do the c_kv of a pair."""
    d = width
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (rows, d),
        "transformer.wte.norm.weight": (d,),
        "transformer.wte.norm.bias": (d,),
    }
    for layer in range(layers):
        block = f"transformer.h.{layer}."
        found[block + "ln_1.weight"] = found[block + "ln_2.weight"] = (d,)
        found[block + "attn.c_kv.weight"] = (2 * d, d)
        found[block + "attn.c_query.weight"] = found[block + "attn.c_proj.weight"] = (d, d)
        found[block + "mlp.c_fc.weight"] = (4 * d, d)
        found[block + "mlp.c_proj.weight"] = (d, 4 * d)
    return found | {"transformer.ln_f.weight": (d,), "lm_head.weight": (rows, d)}


def owner(name: str) -> str:
    """The key whose tensor this key holds: itself, but for the tied and the shared ones."""
    if name == "lm_head.weight":
        return "transformer.wte.weight"
    if name.endswith("attn.c_kv.weight"):
        layer = int(name.split(".")[2])
        return f"transformer.h.{layer - layer % 2}.attn.c_kv.weight"
    return name


STREAM = 0.02
"""Size of the residual stream in a case: with variances of 4e-4, the norms' eps of 1e-5 matters too."""


def scales(name: str) -> tuple[float, float]:
    """Mean and standard deviation of a tensor; the latter over the root of a matrix's fan-in."""
    if name.endswith("wte.weight"):
        return 0.0, 0.1
    if name.endswith("wte.norm.weight"):
        return STREAM, 0.3 * STREAM
    if name.endswith("wte.norm.bias"):
        return 0.0, 0.3 * STREAM
    if name.endswith("c_query.weight"):
        return 0.0, 3.0
    if name.endswith("c_proj.weight"):
        return 0.0, STREAM
    if name.endswith("ln_f.weight"):
        return 30.0, 9.0
    return (1.0, 0.3) if "ln_" in name else (0.0, 1.0)


def make_case(case: Case) -> tuple[dict[str, NDArray[np.float32]], list[int]]:
    """Weights in the checkpoint's layout and the ids of a text.

    The scales let every part of the table matter: scores of several units beside ALiBi's, every branch as
    large as the stream that it joins, norms that are not 1, logits of a few units.
    """
    random = np.random.default_rng([case.layers, case.heads, case.width, case.rows, case.length])
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes(case.layers, case.width, case.rows).items():
        if owner(name) != name:
            weights[name] = weights[owner(name)]
            continue
        mean, deviation = scales(name)
        fan_in = shape[1] if len(shape) == 2 else 1
        noise = random.standard_normal(shape) / math.sqrt(fan_in)
        weights[name] = (mean + deviation * noise).astype(np.float32)
    return weights, random.integers(0, case.defined, case.length).tolist()
