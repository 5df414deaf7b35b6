"""What study `attention` answers: which of the original model's choices in attention help."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import format_count
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
    missing_points,
    summary,
)
from parakeet.studies.lines import Line, draw_lines
from parakeet.studies.records import Record
from parakeet.studies.seeds import FEWEST_SEEDS
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
        "missing": missing_points(records, {"variants": [{VARIANT: name} for name in axis]}),
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
    return f"{'; '.join(said)}." if said else "There are no runs to answer from yet."


def _said_of_variants(figures: Figures) -> str:
    changes = {name: one["change"] for name, one in figures["variants"].items() if one["change"]}
    base = figures["variants"].get(figures["base"])
    if not changes:
        return f"With {figures['base']} a model needs {in_words(base['bits_per_byte'])} bits per byte" if base else ""
    each = [f"{_name(name, figures)} {in_words(found, sign=True)}" for name, found in changes.items()]
    helps = [name for name, found in changes.items() if is_below(found)]
    harms = [name for name, found in changes.items() if is_above(found)]
    if all(found["interval"] is None for found in changes.values()):
        verdict = "there are too few seeds to tell any of it from chance"
    elif not helps and not harms:
        verdict = "none of them more than seeds could make"
    else:
        words = [
            f"{' and '.join(names)} {verb}" for names, verb in ((helps, "lowers it"), (harms, "raises it")) if names
        ]
        verdict = f"beyond chance, {', and '.join(words)}"
    return f"Against {figures['base']}, bits per byte change by: {', '.join(each)}; {verdict}"


def _name(name: str, figures: Figures) -> str:
    """With the parameters where they differ from the base's."""
    base = figures["variants"].get(figures["base"])
    mine = figures["variants"][name]["parameters"]
    if base is None or mine == base["parameters"]:
        return name
    return f"{name} ({mine / base['parameters'] - 1:+.0%} parameters)"


def _said_of_positions(figures: Figures) -> str:
    far = figures["far"]
    if not far:
        return ""
    found = far["variants"][figures["base"]]
    length = figures["variants"][figures["base"]]["trained_at"]
    said = (
        f"trained at {length:,} tokens, {figures['base']} need {in_words(found['far'])} at positions "
        f"{_span(far['far'])}, {in_words(found['change'], sign=True)} from positions {_span(far['near'])}"
    )
    if found["behind"]:
        long = figures["variants"][far["long"]]["trained_at"]
        said += f", and {in_words(found['behind'], sign=True)} beside a model that was trained at {long:,}"
    return said


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
        verdict = "" if change is None else _verdict(change)
        bits = in_words(one["bits_per_byte"])
        rows.append((name, format_count(one["parameters"]), bits, in_words(change, 4, sign=True), verdict))
        if change:
            changes.append((name, change))
    columns = ("variant", "parameters", "bits per byte", f"minus {figures['base']}", "")
    parts: list[Part] = []
    if changes:
        label = f"Bits per byte of each variant minus those of {figures['base']}, with 95 % intervals"
        parts.append(Drawing(partial(draw_changes, changes, figures["base"]), label))
    return [*parts, Table(columns, rows, right=(1, 2, 3))]


def _verdict(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return "no interval"
    return "better" if is_below(found) else "worse" if is_above(found) else "could be chance"


def draw_changes(changes: Sequence[tuple[str, Mapping[str, Any]]], base: str, palette: Any) -> Any:
    """A dot for each variant with the interval of its difference, and a small one for each seed."""
    from parakeet.pages.charts import axes as empty_axes

    figure, axes = empty_axes(palette, height=0.9 + 0.42 * len(changes))
    for place, (_, found) in enumerate(changes):
        colour = palette.series[0]
        if found["interval"]:
            axes.plot(found["interval"], [place, place], color=colour, linewidth=2.5, alpha=0.45)
        axes.plot(list(found["seeds"].values()), [place] * found["n"], ".", color=colour, markersize=4, alpha=0.6)
        axes.plot(found["value"], place, "o", color=colour, markersize=5.5)
    axes.axvline(0, color=palette.soft, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(changes)), [name for name, _ in changes])
    axes.set_ylim(len(changes) - 0.4, -0.6)
    axes.set_xlabel(f"held-out bits per byte minus {base} (lower is better)")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


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
    seeds = len(figures["seeds"])
    if 0 < seeds < FEWEST_SEEDS:
        limits.append(
            f"There {'is one seed' if seeds == 1 else 'are two seeds'}, so no figure has an interval, and no "
            "difference is told from chance."
        )
    if figures["missing"]:
        limits.append(f"No runs of: {', '.join(figures['missing'])}.")
    compared = sum(one["change"] is not None for one in figures["variants"].values())
    if compared > 1 and seeds >= FEWEST_SEEDS:
        limits.append(
            f"Differences are seed by seed, with Student's t over {seeds} seeds. Of {compared} comparisons at 95 %, "
            f"one in {round(1 / (1 - 0.95**compared))} studies has a false one. Smaller effects stay unseen."
        )
    limits.append(
        "One small size, few tokens and one learning rate for all variants: a choice may matter in larger models, or "
        "in longer training. Own keys and values have more parameters; they are not taken away elsewhere."
    )
    if any(not one["comparable"] for one in figures["variants"].values()):
        limits.append(
            "The model that was trained at another length reads as many tokens in fewer, longer sequences. It is "
            "compared by position only, since held-out bits per byte are measured in sequences as training has them."
        )
    return limits
