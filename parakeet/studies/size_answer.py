"""What study `size` answers: how small a language model can be and still be useful."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from parakeet.formatting import counted, format_count, format_percent, listed
from parakeet.pages import Table
from parakeet.report.parts import Details, Drawing, Heading, Part
from parakeet.studies.answer import Answer
from parakeet.studies.records import Record
from parakeet.studies.seeds import too_few
from parakeet.studies.size_charts import draw_sizes, draw_tasks
from parakeet.studies.size_figures import COMPUTE_ARM, TEXT_ARM, size_figures
from parakeet.studies.study import StudyFile

ARMS = {TEXT_ARM: "equal tokens", COMPUTE_ARM: "equal compute"}
MEASURES = {
    "exact_match": "Tasks, answered exactly",
    "minimal_pairs": "Grammar: which of two sentences is likelier",
    "probes": "Copying, induction and arithmetic",
    "benchmarks": "Public benchmarks",
}
SMALLEST = 0.001
"""Of what is shown of an interval: three seeds that agree by chance are not certain."""
OPENED = ("minimal_pairs", "benchmarks")
"""Long tables, which a reader opens."""


def answer(records: Sequence[Record], file: StudyFile, forecast: Mapping[str, Any] | None = None) -> Answer:
    """Answers the study. `forecast` is its forecast.json; without one the law says afterwards what it would have been.

    Records may be missing: what cannot be said without them is said.
    """
    figures = size_figures(records, file, forecast)
    return Answer(figures, _sentence(figures), _parts(figures), _limits(figures))


def _sentence(figures: Mapping[str, Any]) -> str:
    tasks = figures["tasks"].get("exact_match")
    if tasks:
        return _sentence_of_tasks(figures, tasks)
    arm = figures["arms"].get(TEXT_ARM)
    if not arm:
        return "There are no runs to answer from yet."
    small, *_, large = [*arm.values()] * 2
    return (
        f"From {_count(small)} to {_count(large)} parameters, bits per byte go from {small['value']:.3f} to "
        f"{large['value']:.3f}; no model of the tasks is there yet, so nothing is said of what is useful."
    )


def _sentence_of_tasks(figures: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    sizes = {size: one["parameters_of_tasks"] for size, one in figures["sizes"].items() if one["parameters_of_tasks"]}
    passed = {size: [task for task, one in tasks.items() if one["sizes"].get(size, {}).get("passes")] for size in sizes}
    useful = [size for size in sizes if passed[size]]
    largest = list(sizes)[-1]
    if not useful:
        return f"No size up to {format_count(sizes[largest])} parameters passes any of the {len(tasks)} tasks."
    first = useful[0]
    best = max(useful, key=lambda size: len(passed[size]))  # the smallest of the best
    said = (
        f"The smallest model that passes any of the {len(tasks)} tasks has {format_count(sizes[first])} parameters and "
        f"passes {listed(passed[first])}"
    )
    if len(passed[best]) > len(passed[first]):
        said += f"; with {format_count(sizes[best])}, {len(passed[best])} are passed"
    if never := [task for task, one in tasks.items() if one["smallest"] is None]:
        said += f"; no size up to {format_count(sizes[largest])} passes {listed(never, 'or')}"
    return said + "."


def _parts(figures: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    if figures["tasks"]:
        parts += _useful(figures)
    if any(arm in figures["arms"] for arm in ARMS):
        parts += _sizes(figures)
        parts += _law(figures)
    if figures["forecast"]:
        parts += _forecast(figures["forecast"])
    if figures["gold"]:
        parts += _gold(figures["gold"])
    return parts


def _useful(figures: Mapping[str, Any]) -> list[Part]:
    exact = figures["passes"]["exact"]
    parts: list[Part] = [
        Heading("What each size passes"),
        f"A task is passed if the lower end of the share's {_level(figures)} interval is above "
        f"{format_percent(exact, 0)} where the answer must be exact, and above chance where a model chooses.",
    ]
    if "exact_match" in figures["tasks"]:
        label = "The share of exact answers by parameters, a line for each task, with 95 % intervals"
        parts.append(Drawing(partial(draw_tasks, figures), label))
    for name, title in MEASURES.items():
        if name in figures["tasks"]:
            table = _task_table(figures["tasks"][name])
            parts += [Details(title, [table])] if name in OPENED else [f"{title}:", table]
    return parts


def _task_table(tasks: Mapping[str, Any]) -> Table:
    sizes = list(dict.fromkeys(size for one in tasks.values() for size in one["sizes"]))
    rows = []
    for task, found in tasks.items():
        cells = [_share(found["sizes"][size]) if size in found["sizes"] else "" for size in sizes]
        smallest = found["smallest"] or "none"
        note = "" if found["steady"] or found["smallest"] is None else ", but not every larger one"
        rows.append((task, format_percent(found["threshold"]), *cells, smallest + note))
    return Table(("task", "to pass", *sizes, "smallest that passes"), rows, right=range(1, 2 + len(sizes)))


def _share(found: Mapping[str, Any]) -> str:
    low, high = (format_percent(bound, 0) for bound in found["interval"])
    return f"{format_percent(found['share'], 0)} ({low} to {high})"


def _sizes(figures: Mapping[str, Any]) -> list[Part]:
    label = "Bits per byte by parameters, at equal tokens and at equal compute, with the law and its forecast"
    rows = []
    for size, known in figures["sizes"].items():
        cells: list[object] = [size, known["parameters"]]
        for arm in ARMS:
            found = figures["arms"].get(arm, {}).get(size)
            cells += [found["tokens"], _value(found)] if found else ["", ""]
        rows.append(cells)
    columns = (
        "size",
        "parameters",
        *(column for arm in ARMS.values() for column in (f"tokens ({arm})", "bits per byte")),
    )
    parts: list[Part] = [Heading("Bits per byte by size"), Drawing(partial(draw_sizes, figures), label)]
    control = figures["control"]
    parts.append(
        f"Bits per byte of held-out text, the mean over seeds with its {_level(figures)} interval. The frequencies of "
        f"tokens alone need {control['unigram']:.3f}, xz {control['xz']:.3f}."
    )
    parts.append(Table(columns, rows, right=range(1, 6)))
    if best := figures["optimum"]:
        parts.append(_optimum(best))
    return parts


def _optimum(best: Mapping[str, Any]) -> str:
    said = f"At {best['flops']:.2g} FLOPs the best of the sizes is {best['size']}, with {_value(best)} bits per byte."
    if best["as_good"]:
        said += f" It is not clearly better than {listed(best['as_good'], 'or')}."
    if best["at_edge"]:
        said += " It is the smallest or the largest of them, so the best size may lie beyond."
    if law := best["law"]:
        low, high = law["interval"]
        said += (
            f" The law puts the best at {_near(law['parameters'])} parameters ({_near(low)} to {_near(high)}"
            f"{', an end of what was trained' if any(law['at_edge']) else ''}), which read {_near(law['tokens'])} "
            "tokens."
        )
    return said


def _law(figures: Mapping[str, Any]) -> list[Part]:
    law = figures["law"]
    parts: list[Part] = [Heading("The law")]
    if law is None:
        return [*parts, f"No law is fitted: {figures['law_reason']}."]
    rows = [
        (name, _near(law["parameters"][name]), " to ".join(_near(bound) for bound in law["intervals"][name]))
        for name in ("E", "A", "B", "alpha", "beta")
    ]
    noise = "" if law["seed_noise"] is None else f" Seeds differ by {format_percent(law['seed_noise'], 2)} (a standard "
    noise += "deviation), and the law is off by" if noise else " The law, with the noise of the one seed, is off by"
    parts += [
        f"L(N, D) = E + A / N^alpha + B / D^beta in bits per byte (Hoffmann et al. 2022), fitted to "
        f"{counted(law['runs'], 'run')} in {len(law['cells'])} cells of one size and number of tokens. Of several "
        f"forms it is the one that best forecasts a size left out: {law['form']}.",
        Table(("parameter", "value", f"{_level(figures)} interval"), rows, right=(1, 2)),
        f"{noise.strip()} {format_percent(law['misfit'], 2)}. Its largest residual is "
        f"{format_percent(law['largest_residual'], 2)}. Of {counted(law['judged'], 'cell')}, each forecast from the "
        f"other sizes alone, {law['inside']} are inside their interval. The form was chosen by the same forecasts, "
        "which flatters them.",
        Details("Residuals, and each size forecast from the others", [_residual_table(law)]),
        Details("Which N, and how many exponents", [_form_table(law)]),
    ]
    return parts


def _residual_table(law: Mapping[str, Any]) -> Table:
    rows = []
    for cell in law["cells"]:
        left_out = ["", "", ""]
        if cell["left_out"] is not None:
            interval = " to ".join(f"{bound:.3f}" for bound in cell["left_out_interval"])
            left_out = [f"{cell['left_out']:.3f}", interval, "yes" if cell["inside"] else "no"]
        measured = (f"{cell['measured']:.3f}", f"{cell['law']:.3f}", _signed(cell["relative"]))
        rows.append((cell["size"], cell["tokens"], *measured, *left_out))
    columns = ("size", "tokens", "measured", "law", "residual", "from other sizes", "interval", "inside")
    return Table(columns, rows, right=range(1, 7))


def _form_table(law: Mapping[str, Any]) -> Table:
    errors = sorted(law["left_out_errors"].items(), key=lambda one: (one[1] is None, one[1]))
    rows = [(name, "too few runs" if error is None else format_percent(error, 2)) for name, error in errors]
    return Table(("N", "error of sizes left out, root mean square"), rows, right=(1,))


def _forecast(forecast: Mapping[str, Any]) -> list[Part]:
    when = f"written at {forecast['made'][:16].replace('T', ' ')} UTC, " if forecast["made"] else "made "
    told = "before any of its runs was finished" if forecast["made_before"] else "afterwards, from the others alone"
    rows = []
    for point in forecast["points"]:
        interval = " to ".join(f"{bound:.3f}" for bound in point["interval"])
        row = [point["size"], ARMS.get(point["arm"], point["arm"]), f"{point['bits_per_byte']:.3f}", interval]
        if point["measured"]:
            inside = f"{point['inside']} of {point['runs']}"
            rows.append((*row, _value(point["measured"]), _signed(point["off"]), inside))
        else:
            rows.append((*row, "not trained yet", "", ""))
    columns = ("size", "at", "forecast", "interval of one run", "measured", "off by", "runs inside")
    return [
        Heading("The forecast"),
        f"The law's forecast of the size that was left out was {when}{told}. {_verdict(forecast['points'])}".strip(),
        Table(columns, rows, right=range(2, 7)),
    ]


def _verdict(points: Sequence[Mapping[str, Any]]) -> str:
    trained = [point for point in points if point["measured"]]
    if not trained:
        return ""
    held = sum(point["inside"] == point["runs"] for point in trained)
    off = max(abs(point["off"]) for point in trained)
    return (
        f"All runs are inside the interval in {held} of {counted(len(trained), 'forecast')}. The largest error of a "
        f"mean is {format_percent(off)}."
    )


def _gold(gold: Mapping[str, Any]) -> list[Part]:
    rows = [("mean", *(_value(one["mean"]) for one in gold.values()))]
    tasks = list(dict.fromkeys(task for one in gold.values() for task in one["tasks"]))
    details = [
        (task, *(_value(one["tasks"][task]) if task in one["tasks"] else "" for one in gold.values())) for task in tasks
    ]
    columns, right = ("bits per byte", *gold), range(1, 1 + len(gold))
    return [
        Heading("Right answers of public benchmarks"),
        "While a model is near chance, bits per byte of the right answer say more than accuracy. At equal tokens, the "
        f"mean over {counted(len(tasks), 'benchmark')}:",
        Table(columns, rows, right=right),
        Details("Each benchmark", [Table(("task", *gold), details, right=right)]),
    ]


def _limits(figures: Mapping[str, Any]) -> list[str]:
    limits = []
    if few := too_few(figures["seeds"]):
        limits.append(f"{few}, so no figure of bits per byte has an interval over seeds.")
    if shares := [one["tokens"] / one["parameters"] for arm in figures["arms"].values() for one in arm.values()]:
        limits.append(
            f"The models read from {min(shares):.2g} to {max(shares):.2g} tokens a parameter, of one kind of text. The "
            "law is of this range; its E is not the entropy of text."
        )
    limits.append("The learning rate follows a rule of the width. It was not searched for each size.")
    if "exact_match" in figures["tasks"]:
        limits.append(
            "The tasks are the demo's, made from templates. Their intervals are over questions, not over seeds: "
            "another seed may pass other tasks. To pass them is not to hold a conversation."
        )
    chosen = [one for name, tasks in figures["tasks"].items() if name != "exact_match" for one in tasks.values()]
    if chosen:
        n = sum(len(one["sizes"]) for one in chosen)
        limits.append(
            f"Of {n} comparisons with chance, up to one in forty passes by luck alone. All seeds and sizes answer the "
            "same questions, so luck repeats along a row."
        )
    return limits


def _value(found: Mapping[str, Any]) -> str:
    """`2.125 ± 0.012`; without an interval `2.125`."""
    if found["interval"] is None:
        return f"{found['value']:.3f}"
    half = (found["interval"][1] - found["interval"][0]) / 2
    return f"{found['value']:.3f} ± {f'{half:.3f}' if half >= SMALLEST else f'< {SMALLEST}'}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}%"


def _count(found: Mapping[str, Any]) -> str:
    return format_count(found["parameters"])


def _near(number: float) -> str:
    """Three digits."""
    return format_count(float(f"{number:.3g}"))


def _level(figures: Mapping[str, Any]) -> str:
    return format_percent(figures["confidence"], 0)
