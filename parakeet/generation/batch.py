"""Greedy replies to many prompts at once: prompts of one length share every forward pass."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from parakeet.errors import ParakeetError
from parakeet.model.transformer import Parakeet
from parakeet.tokenizer import Tokenizer

PROMPTS_PER_BATCH = 64


@torch.no_grad()
def greedy_replies(
    model: Parakeet, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int]
) -> list[list[int]]:
    """Ids of each reply, without the id that ended it, cut at the prompt's own `max_tokens`.

    prompts are rendered ids (`template.render_prompt`). Only ordinary ids and the end of a turn can be chosen.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    replies: list[list[int]] = [[] for _ in prompts]
    for indices in by_length.values():
        indices.sort(key=lambda index: max_tokens[index])
        for begin in range(0, len(indices), PROMPTS_PER_BATCH):
            group = indices[begin : begin + PROMPTS_PER_BATCH]
            limit = max_tokens[group[-1]]
            rows = _decode(model, tokenizer, [prompts[index] for index in group], limit)
            for index, row in zip(group, rows, strict=True):
                replies[index] = row[: max_tokens[index]]
    return replies


def _decode(model: Parakeet, tokenizer: Tokenizer, prompts: list[Sequence[int]], max_tokens: int) -> list[list[int]]:
    device = model.embedding.weight.device
    allowed = torch.zeros(model.config.vocabulary_rows, dtype=torch.bool, device=device)
    allowed[[*tokenizer.defined_ids(), tokenizer.end_of_prompt]] = True
    ids = torch.tensor(prompts, dtype=torch.int64, device=device)
    cache = model.new_cache(len(prompts), ids.shape[1] + max_tokens)
    chosen: list[torch.Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for _ in range(max_tokens):
        logits = model.decode(ids, cache)
        if not bool(torch.isfinite(logits).all()):
            raise ParakeetError("The model's logits are not finite: its weights are unusable, and nothing is scored.")
        logits = logits.masked_fill(~allowed, float("-inf"))
        ids = logits.argmax(-1, keepdim=True)
        chosen.append(ids[:, 0])
        ended |= ids[:, 0] == tokenizer.end_of_prompt
        if bool(ended.all()):
            break
    return [_until(row, tokenizer.end_of_prompt) for row in torch.stack(chosen, 1).tolist()]


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
