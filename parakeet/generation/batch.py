"""Replies to many prompts at once: prompts are read one by one, and every step writes a token of each reply."""

from collections.abc import Sequence

from parakeet.generation.engine import Engine
from parakeet.generation.sampling import Sampler
from parakeet.generation.settings import SamplingSettings

PROMPTS_PER_BATCH = 64


def batch_replies(
    engine: Engine, prompts: Sequence[Sequence[int]], settings: Sequence[SamplingSettings]
) -> list[list[int]]:
    """Ids of each reply, without the id that ended it; `settings` are each prompt's own.

    prompts are rendered ids (`template.render_prompt`) of any lengths up to the context, which also ends a reply. Stop
    strings and `rolling` are the engine's `generate`'s. Raises ParakeetError where a prompt does not fit, or logits
    are not finite.
    """
    for prompt in prompts:
        engine.check_prompt(prompt)
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: settings[index].max_tokens)
    for begin in range(0, len(order), PROMPTS_PER_BATCH):
        group = order[begin : begin + PROMPTS_PER_BATCH]
        for index, reply in zip(group, _batch(engine, prompts, settings, group), strict=True):
            replies[index] = reply
    return replies


def _batch(
    engine: Engine, prompts: Sequence[Sequence[int]], settings: Sequence[SamplingSettings], group: list[int]
) -> list[list[int]]:
    model = engine.model
    longest = max(len(prompts[index]) + settings[index].max_tokens for index in group)
    cache = model.new_cache(longest, len(group))
    logits = [model.prefill(prompts[index], cache, row) for row, index in enumerate(group)]
    samplers = [Sampler(settings[index], engine.allowed) for index in group]
    rows: list[list[int]] = [[] for _ in group]
    open_rows = [row for row, index in enumerate(group) if len(prompts[index]) < engine.context]
    last = [0] * len(group)
    while open_rows:
        for row in open_rows:
            last[row] = samplers[row].choose(logits[row])
            if last[row] not in engine.stop_ids:
                rows[row].append(last[row])
        open_rows = [
            row
            for row in open_rows
            if last[row] not in engine.stop_ids
            and len(rows[row]) < settings[group[row]].max_tokens
            and len(prompts[group[row]]) + len(rows[row]) < engine.context
        ]
        if open_rows:
            logits = list(model.step(last, cache))
    return rows
