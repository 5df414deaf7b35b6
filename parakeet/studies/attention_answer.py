"""What study `attention` answers: which of the original model's choices in attention help."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import format_count, listed
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.comparison import (
    BITS_PER_BYTE,
    BySeed,
    by_seed,
    difference,
    in_words,
    is_above,
    is_below,
    is_clear,
    summary,
    verdict,
)
from parakeet.studies.dots import draw_dots
from parakeet.studies.lines import Line, draw_lines
from parakeet.studies.records import Record
from parakeet.studies.seeds import too_few
from parakeet.studies.study import StudyFile

VARIANT, LENGTH_KEY = "variant", "packing.sequence_length"
Figures = Mapping[str, Any]


def answer(records: Sequence[Record], file: StudyFile) -> Answer:
    """Answers the study. The first point of axis `variant` is the base. Records may be missing: that is said."""
    figures = attention_figures(records, file)
    return Answer(figures, _sentence(figures), _parts(figures), _limits(figures))


def attention_figures(records: Sequence[Record], file: StudyFile) -> dict[str, Any]:
    """{"base", "seeds", "missing", "variants", "far"}.

    A variant has its `parameters`, `bits_per_byte`, `change` (minus the base, seed by seed; None of the base itself),
    `trained_at` and `positions`: bits per byte by position, where a token is predicted from all before it. Of one that
    is trained at another length than the base, `bits_per_byte` and `change` are None, since its text is cut otherwise.
    `far` compares the last positions of the base with those where its training sequences end, and with the variant that
    was trained there.
    """
    axis = file.axes[VARIANT]
    base = next(iter(axis))
    length = axis[base].get(LENGTH_KEY)
    found: dict[str, list[Record]] = {}
    for name in axis:
        if mine := [record for record in records if record.points.get(VARIANT) == name]:
            found[name] = sorted(mine, key=lambda record: record.seed)
    of_base = by_seed(found.get(base, []), BITS_PER_BYTE)
    variants: dict[str, Any] = {}
    for name, mine in found.items():
        alike = axis[name].get(LENGTH_KEY) == length
        bits = by_seed(mine, BITS_PER_BYTE) if alike else {}
        variants[name] = {
            "parameters": mine[0].training["parameters"],
            "trained_at": _trained_at(mine[0]),
            "bits_per_byte": summary(bits),
            "change": difference(bits, of_base) if alike and name != base else None,
            "comparable": alike,
            "positions": [
                {"first": first, "last": last, **(summary(values) or {})}
                for (first, last), values in _positions(mine).items()
            ],
        }
    return {
        "base": base,
        "seeds": sorted({record.seed for record in records}),
        "variants": variants,
        "far": _far(base, found),
    }


def _trained_at(record: Record) -> int | None:
    return (record.measured.get("bits_per_byte_by_position") or {}).get("longest_trained_row_tokens")


def _positions(records: Sequence[Record]) -> dict[tuple[int, int], dict[int, float]]:
    """Bits per byte over all sources, by the first and the last position of a bucket, and by seed."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    for record in records:
        sources = (record.measured.get("bits_per_byte_by_position") or {}).get("sources", {})
        sums: dict[tuple[int, int], list[float]] = {}
        for source in sources.values():
            for bucket in source["buckets"] if source else ():
                total = sums.setdefault((bucket["first"], bucket["last"]), [0.0, 0.0])
                total[0] += bucket["bits_per_byte"] * bucket["n_bytes"]
                total[1] += bucket["n_bytes"]
        for place, (bits, n_bytes) in sums.items():
            found.setdefault(place, {})[record.seed] = bits / n_bytes
    return dict(sorted(found.items()))


def _far(base: str, found: Mapping[str, Sequence[Record]]) -> dict[str, Any] | None:
    """{"near", "far", "variants": {name: {"change", "behind"}}, "long"}.

    `near` and `far` are first and last position of the bucket where the base's training sequences end, and of the last
    one. Of each variant of the base's length, `change` is bits per byte at `far` minus those at `near`, and `behind`
    those at `far` minus those of `long`, the variant that was trained at a greater length; None without it.
    """
    lengths = {name: _trained_at(records[0]) for name, records in found.items()}
    short = lengths.get(base)
    if short is None:
        return None
    positions = {name: _positions(records) for name, records in found.items()}
    near = next((place for place in positions[base] if place[1] == short - 1), None)
    far = list(positions[base])[-1] if positions[base] else None
    if near is None or far is None or near == far:
        return None
    long = next((name for name, length in lengths.items() if length and length > short), None)
    at_long: BySeed = positions[long].get(far, {}) if long else {}
    variants = {}
    for name, length in lengths.items():
        at_far = positions[name].get(far, {})
        variants[name] = {
            "near": summary(positions[name].get(near, {})),
            "far": summary(at_far),
            "change": difference(at_far, positions[name].get(near, {})),
            "behind": difference(at_far, at_long) if length == short else None,
        }
    return {"near": list(near), "far": list(far), "long": long, "variants": variants}


def _sentence(figures: Figures) -> str:
    said = [one for one in (_said_of_variants(figures), _said_of_positions(figures)) if one]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "There are no runs to answer from yet."


def _said_of_variants(figures: Figures) -> str:
    changes = {name: one["change"] for name, one in figures["variants"].items() if one["change"]}
    base = figures["variants"].get(figures["base"])
    if not changes:
        return f"with {figures['base']} a model needs {_value(base['bits_per_byte'])} bits per byte" if base else ""
    each = {name: _named(name, found, figures) for name, found in changes.items()}
    if all(found["interval"] is None for found in changes.values()):
        said = f"bits per byte change with {listed(list(each.values()))}"
        return f"against {figures['base']}, {said}, with too few seeds to tell any of it from chance"
    clearly = [
        f"{verb} with {listed([each[name] for name in names])}"
        for verb, is_one in (("fall", is_below), ("rise", is_above))
        if (names := [name for name, found in changes.items() if is_one(found)])
    ]
    unclear = listed([each[name] for name, found in changes.items() if not is_clear(found)], "or") if each else ""
    clear = f"against {figures['base']}, bits per byte {listed(clearly)}"
    if not clearly:
        return f"against {figures['base']}, bits per byte do not clearly change with {unclear}"
    return f"{clear}, and do not clearly change with {unclear}" if unclear else clear


def _named(name: str, change: Mapping[str, Any], figures: Figures) -> str:
    """With the change, and the parameters where they differ from the base's."""
    base, mine = figures["variants"][figures["base"]]["parameters"], figures["variants"][name]["parameters"]
    more = f", {mine / base - 1:+.0%} parameters" if mine != base else ""
    return f"{name} ({change['value']:+.3f}{more})"


def _said_of_positions(figures: Figures) -> str:
    far = figures["far"]
    if not far:
        return ""
    found = far["variants"][figures["base"]]
    length = figures["variants"][figures["base"]]["trained_at"]
    said = (
        f"trained at {length:,} tokens, a model needs {_value(found['far'])} bits per byte at positions "
        f"{_span(far['far'])}, {_beside(found['change'])} at positions {_span(far['near'])}"
    )
    if found["behind"]:
        long = figures["variants"][far["long"]]["trained_at"]
        said += f" and {_beside(found['behind'])} a model that was trained at {long:,}"
    return said


def _value(found: Mapping[str, Any]) -> str:
    """Without its interval, which the section has."""
    return f"{found['value']:.3f}"


def _beside(found: Mapping[str, Any]) -> str:
    if not is_clear(found):
        return "not clearly different from"
    return f"{abs(found['value']):.3f} {'more' if found['value'] > 0 else 'less'} than"


def _span(place: Sequence[int]) -> str:
    return f"{place[0]:,} to {place[1]:,}"


def _parts(figures: Figures) -> list[Part]:
    if not figures["variants"]:
        return []
    parts: list[Part] = [Heading("The choices at equal tokens"), *_variant_parts(figures)]
    if any(one["positions"] for one in figures["variants"].values()):
        parts += _position_parts(figures)
    return parts


def _variant_parts(figures: Figures) -> list[Part]:
    rows, changes = [], []
    for name, one in figures["variants"].items():
        if not one["comparable"]:
            continue
        change = one["change"]
        cells = [format_count(one["parameters"]), in_words(one["bits_per_byte"]), in_words(change, 4, sign=True)]
        rows.append((name, *cells, verdict(change) if change else ""))
        if change:
            changes.append((name, change))
    columns = ("variant", "parameters", "bits per byte", f"minus {figures['base']}", "")
    parts: list[Part] = []
    if changes:
        label = f"Bits per byte of each variant minus those of {figures['base']}, with 95 % intervals"
        x = f"held-out bits per byte minus {figures['base']} (lower is better)"
        parts.append(Drawing(partial(draw_dots, {"": changes}, x, zero=True), label))
    return [*parts, Table(columns, rows, right=(1, 2, 3))]


def _position_parts(figures: Figures) -> list[Part]:
    lines: dict[str, Line] = {
        name: [((place["first"] + place["last"] + 2) / 2, place) for place in one["positions"] if "value" in place]
        for name, one in figures["variants"].items()
    }
    base = figures["variants"].get(figures["base"])
    short = base["trained_at"] if base else None
    places = sorted(
        {(place["first"], place["last"]) for one in figures["variants"].values() for place in one["positions"]}
    )
    chart = partial(
        draw_lines,
        lines,
        "position in the sequence, tokens",
        "bits per byte (lower is better)",
        ticks=[last + 1 for _, last in places],
        mark=(short, f"trained up to {short:,}") if short else None,
    )
    rows = []
    for first, last in places:
        cells = []
        for one in figures["variants"].values():
            found = next((place for place in one["positions"] if place["first"] == first), None)
            cells.append(in_words(found))
        rows.append((f"{first:,} to {last:,}", *cells))
    parts: list[Part] = [
        Heading("Beyond the length of training"),
        "Held-out documents one after the other, without a document mask: each token is predicted from all before it "
        "in its sequence. ALiBi (Press et al. 2021) lets a model read further than it was trained.",
        Drawing(chart, "Bits per byte by position in the sequence, a line for each variant, with 95 % intervals"),
    ]
    if figures["far"]:
        parts.append(_far_table(figures["far"]))
    table = Table(("positions", *figures["variants"]), rows, right=range(1, len(figures["variants"]) + 1))
    return [*parts, Details("Each span of positions", [table])]


def _far_table(far: Mapping[str, Any]) -> Table:
    near, last = _span(far["near"]), _span(far["far"])
    columns = [f"at {near}", f"at {last}", "change"]
    if far["long"]:
        columns.append(f"at {last}, minus {far['long']}")
    rows = []
    for name, one in far["variants"].items():
        cells = [in_words(one["near"]), in_words(one["far"]), in_words(one["change"], sign=True)]
        rows.append((name, *cells, *([in_words(one["behind"], sign=True)] if far["long"] else [])))
    return Table(("variant", *columns), rows, right=range(1, len(columns) + 1))


def _limits(figures: Figures) -> list[str]:
    limits = []
    few = too_few(figures["seeds"])
    if few:
        limits.append(f"{few}, so no figure has an interval, and no difference is told from chance.")
    compared = sum(one["change"] is not None for one in figures["variants"].values())
    if compared > 1 and not few:
        limits.append(
            f"Differences are seed by seed, with Student's t over {len(figures['seeds'])} seeds. With {compared} "
            f"comparisons at 95 %, up to one study in {round(1 / (1 - 0.95**compared))} finds a difference by chance. "
            "Small effects stay unseen."
        )
    if figures["far"]:
        limits.append(
            "Near and far positions hold different text, which an interval over seeds does not cover. Two models at "
            "the same positions read the same."
        )
    limits.append(
        "There is one small size, few tokens and one learning rate for all variants. A choice may matter in larger "
        "models, or in longer training. A variant with more parameters has them on top of the base's."
    )
    if any(not one["comparable"] for one in figures["variants"].values()):
        limits.append(
            "The model that was trained at another length reads as many tokens in fewer, longer sequences. It is "
            "compared by position only, since held-out bits per byte are measured in sequences as training has them."
        )
    return limits
