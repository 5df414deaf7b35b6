"""A model that nobody trained and that talks on, and messages for it: what servers are measured with."""

import random
from contextlib import suppress
from pathlib import Path

import torch

from parakeet.benchmarks.export import write_random_release
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import load_model, save_model
from parakeet.recipe import Recipe
from parakeet.release.verify import write_sums
from parakeet.tokenizer import Tokenizer


def write_speaking_release(recipe: Recipe, folder: Path) -> ModelConfig:
    """A release with random weights of the recipe's shape whose replies do not end, repeat or hold half a character.

    Plain random weights repeat their last token: the output is the embedding, which the residual stream begins with.
    Here the blocks outweigh it. Their draws are about as certain as a trained model's, and the ids of ends and of
    broken characters have next to no chance, so that every token is text and an event of a stream.
    """
    config = write_random_release(recipe, folder)
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder, "cpu")
    generator = torch.Generator().manual_seed(1)
    whole = torch.zeros(config.vocabulary_rows, dtype=torch.bool)
    whole[[token_id for token_id in tokenizer.defined_ids() if _is_text(tokenizer.token_bytes(token_id))]] = True
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mlp_output.weight"):
                # It then adds about 5 to each number of the residual stream, which begins at 1. The attention, which
                # has much the same to add at each token, stays small.
                parameter.normal_(0.0, 250 / config.width, generator=generator)
            elif name == "final_norm.weight":
                # Logits with a deviation of 2.7.
                parameter.fill_(135 / config.width**0.5)
            elif name == "embedding.weight":
                # Not 0: a row without any weight has no scale in int8.
                parameter[~whole] *= 1e-3
    save_model(model, folder)
    write_sums(folder)
    return config


def _is_text(token: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return bool(token.decode())
    return False


class Messages:
    """Random words of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        found = (tokenizer.token_bytes(token_id).decode("ascii", "replace") for token_id in tokenizer.defined_ids())
        self._words = [text.strip() for text in found if text.isascii() and text.strip().isalpha()]

    def text(self, tokens: int, seed: int) -> str:
        """A message that makes a prompt of about so many tokens; the same for the same seed."""
        draw = random.Random(seed)
        ids = self._tokenizer.encode(" ".join(draw.choice(self._words) for _ in range(tokens)))
        # The template adds three.
        return self._tokenizer.decode(ids[: max(1, tokens - 3)]).strip()
