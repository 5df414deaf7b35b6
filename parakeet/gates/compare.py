"""The work of stage `comparison`: score both releases on the same text, and judge."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.artifact import WORK_FOLDER
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import measured
from parakeet.evaluation.metrics import EVALUATION_FILE, scores_of
from parakeet.evaluation.scoring import bits_of
from parakeet.gates.chart import draw_differences
from parakeet.gates.held_out import Text, Trained, common_text, rendered_for
from parakeet.gates.incumbent import lost_since_best
from parakeet.gates.judge import (
    MORE_TEXT,
    Difference,
    Gate,
    all_together,
    gate,
    judge_difference,
    judge_generation,
    judge_memorisation,
    judge_shares,
    judge_yardsticks,
    warning_of_own_text,
)
from parakeet.gates.names import CHART_FILE, COMPARISON_FILE, GATES
from parakeet.home import release_folder
from parakeet.intervals import ratio_of
from parakeet.model.transformer import best_device, load_model
from parakeet.pages.charts import save_png
from parakeet.progress import Progress
from parakeet.recipe import Gates
from parakeet.release.verify import verify_release
from parakeet.stage import MakeContext


def make_comparison(context: MakeContext, incumbent: str | None) -> dict[str, Any]:
    """Write comparison.json, and a picture if two releases were scored.

    {"release", "incumbent" (folder names, or None), "gates", "figures"}. A release that fails a gate is no error.
    `incumbent` is the release's own name if it is the promoted one.
    """
    release = context.inputs["release"].path
    bounds = context.recipe.gates
    evaluation = _json(release / EVALUATION_FILE)
    figures: dict[str, Any] = {}
    if (bits := all_together(evaluation["bits_per_byte"], "model")) is not None:
        figures["bits_per_byte"] = bits
    if bounds is None:
        figures["gates"] = "The recipe's `gates` is null, so nothing was judged."
        verdicts = _without_judgement(figures["gates"])
    elif incumbent == release.name:
        incumbent = None
        verdicts = _without_judgement("It was promoted before there were these gates.")
    else:
        before = None if incumbent is None else release_folder(context.root) / incumbent
        verdicts = _judge(context, bounds, release, before, evaluation, figures)
    result = {"release": release.name, "incumbent": incumbent, "gates": verdicts, "figures": figures}
    (context.output / COMPARISON_FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _without_judgement(reason: str) -> list[Gate]:
    return [gate(name, True, reason) for name in GATES]


def _judge(
    context: MakeContext,
    bounds: Gates,
    release: Path,
    before: Path | None,
    evaluation: Mapping[str, Any],
    figures: dict[str, Any],
) -> list[Gate]:
    """The verdicts in the order of GATES. Fills `figures`."""
    memorisation = context.inputs["memorisation"].counts if "memorisation" in context.inputs else None
    health = (judge_generation(bounds, evaluation.get("generation_health")), judge_memorisation(bounds, memorisation))
    try:
        load_model(release, "cpu")
        weights = gate("weights_are_finite", True, "The release loads, and every weight is a finite number.")
    except ParakeetError as error:
        weights = gate("weights_are_finite", False, str(error))
    if before is None:
        first = "It is the first release of this recipe."
        compared = (gate("no_worse_than_before", True, first), gate("no_figure_fell", True, first))
        yardsticks = judge_yardsticks(bounds, evaluation["bits_per_byte"])
    else:
        compared = _compare(context, bounds, release, before, evaluation, figures)
        yardsticks = gate("beats_the_yardsticks", True, f"Not asked: it is compared with {before.name} instead.")
    return [weights, *compared, yardsticks, *health]


def _compare(
    context: MakeContext,
    bounds: Gates,
    release: Path,
    before: Path,
    evaluation: Mapping[str, Any],
    figures: dict[str, Any],
) -> tuple[Gate, Gate]:
    name, fell = "no_worse_than_before", "no_figure_fell"
    by_hand = f"To promote it all the same: parakeet release promote {release.name} --force REASON"
    try:
        verify_release(before)
        earlier = _json(before / EVALUATION_FILE)
        then, measured_then = scores_of(earlier), measured(earlier["bits_per_byte"])
        new, old = Trained.read(context.root, release), Trained.read(context.root, before)
    except (ParakeetError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = error if isinstance(error, ParakeetError) else f"{EVALUATION_FILE} cannot be read ({error!r})."
        reason = f"The promoted release, {before.name}, cannot be compared with: {why} {by_hand}"
        return gate(name, False, reason), gate(fell, True, f"{before.name} cannot be read.")
    if warning := warning_of_own_text(evaluation["bits_per_byte"], earlier["bits_per_byte"], before.name):
        figures["warning"] = warning
    shares = gate(fell, True, "The recipe's gates.figures is false.")
    if bounds.figures:
        shares = judge_shares(*_measured_alike(scores_of(evaluation), then, new, old), before.name)
    text = common_text(new, old, context.recipe.evaluation.max_bytes, bounds.documents)
    if text is None and not measured_then and not measured(evaluation["bits_per_byte"]):
        reason = f"Nothing is held out from this release, and nothing was from {before.name}: nothing was compared."
        return gate(name, True, reason), shares
    if text is None:
        reason = (
            f"There is no document that neither this release nor {before.name} was trained on: {bounds.documents:,} "
            f"are needed. {MORE_TEXT} {by_hand}"
        )
        return gate(name, False, reason, 0.0, float(bounds.documents)), shares
    try:
        difference = _score(context, new, old, text, figures)
    except ParakeetError as error:
        return gate(name, False, str(error)), shares
    lost = lost_since_best(context.root, context.recipe.name, before.name)
    return judge_difference(bounds, difference, before.name, lost), shares


def _measured_alike(
    now: Mapping[str, Any], then: Mapping[str, Any], new: Trained, old: Trained
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the scores of both evaluations by metric, those of the metrics that had the same version."""
    alike = [
        metric
        for metric in now.keys() & then.keys()
        if new.metrics.get(metric, new.metrics["stage"]) == old.metrics.get(metric, old.metrics["stage"])
    ]
    return {metric: now[metric] for metric in sorted(alike)}, {metric: then[metric] for metric in sorted(alike)}


def _score(context: MakeContext, new: Trained, old: Trained, text: Text, figures: dict[str, Any]) -> Difference:
    """Both releases' bits for the same documents, each with its own tokenizer and its own sequence length."""
    made_with = old.tokenizer if text.of == old.folder.name else new.tokenizer
    learned = (old if text.of == old.folder.name else new).loss_on
    # Only what both were trained to write is compared.
    loss_on = "assistant" if "assistant" in (new.loss_on, old.loss_on) else "all"
    scored = {}
    for key, side in (("release", new), ("incumbent", old)):
        mine = text
        if side.tokenizer.sha256 != made_with.sha256 or learned != loss_on:
            folder = context.output / WORK_FOLDER / key
            mine = rendered_for(text, made_with, side.tokenizer, loss_on, folder)
        scored[key] = _bits(side, mine, context.progress)
    (bits, n_bytes), (bits_before, _) = scored["release"], scored["incumbent"]
    return _paired(context.output, bits, bits_before, n_bytes, text, figures)


def _bits(side: Trained, text: Text, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    device = best_device()
    model = load_model(side.folder, device)
    found = bits_of(model, side.tokenizer, text.shards, text.documents, side.sequence_length, progress)
    return found.bits, found.n_bytes


def _paired(
    output: Path, bits: np.ndarray, before: np.ndarray, n_bytes: np.ndarray, text: Text, figures: dict[str, Any]
) -> Difference:
    """All three arrays are (documents,): bits of the new release and of the promoted one, and bytes of content."""
    counted = n_bytes > 0
    total = int(n_bytes.sum())
    found = ratio_of(bits - before, n_bytes)
    if found is None:
        return Difference(math.nan, math.nan, math.nan, None, 0, 0)
    difference = Difference(
        float(bits.sum()) / total,
        float(before.sum()) / total,
        found["value"],
        tuple(found["interval"]) if found["interval"] else None,
        found["n"],
        total,
    )
    sources = np.array(text.sources)
    by_source = {}
    for source in dict.fromkeys(text.sources):
        here = sources == source
        if one := ratio_of((bits - before)[here], n_bytes[here]):
            by_source[source] = {**one, "bytes": int(n_bytes[here].sum())}
    figures |= {
        "bits_per_byte": difference.release,
        "incumbent_bits_per_byte": difference.incumbent,
        "difference": difference.value,
        "interval": found["interval"],
        "documents": difference.documents,
        "bytes": total,
        "held_out_from": text.of,
        "by_source": by_source,
    }
    each = (bits - before)[counted] / n_bytes[counted]
    save_png(partial(draw_differences, each, difference), output / CHART_FILE)
    return difference


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
