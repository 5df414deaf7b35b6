"""Whether a checkpoint was trained with softmax off by one: the original's file does not say, so it is measured."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.loss import token_losses
from parakeet.model.transformer import Parakeet, load_weights
from parakeet.tokenizer import Tokenizer

PASSAGES = (
    "The sun rises in the east and sets in the west. At noon it stands high in the sky, and shadows are short.",
    "My sister has two cats. One is black, the other is grey, and both of them sleep on the sofa all day long.",
    "When the rain had stopped, the children went back to the garden to look for the ball that they had lost.",
    "Bread is made of flour, water and salt. The baker gets up at four in the morning so that it is ready by seven.",
    "She opened the letter, read it twice, and put it on the table. Then she sat down and began to write an answer.",
    "In winter the lake freezes, and people walk on the ice. In summer they swim in it, or take a small boat out.",
    "He asked me how far it was to the station. I told him to go straight on and to turn left at the next corner.",
    "A good friend listens to what you have to say, even if you have already told the same story a dozen times.",
    "The old man lived alone in a house by the sea. Every evening he walked along the beach with his dog.",
    "To make tea, boil some water, pour it over the leaves, and wait for three or four minutes before you drink it.",
    "Most birds can fly, but some of them cannot. The penguin, for example, is a very good swimmer instead.",
    "We were late for school because the bus did not come, so the teacher was not very happy with us.",
    "It is hard to learn a new language, but it becomes easier with time if you speak a little of it every day.",
    "There is a market in the town on Saturdays, where farmers sell apples, potatoes, eggs and fresh flowers.",
    "The doctor said that there was nothing to worry about, and that he should stay in bed for a few days.",
    "I would like to go to the mountains next year. The air is clear there, and at night you can see the stars.",
)
"""Plain English of which any model of English knows something. Each is read as a document of its own: with few keys,
the one in the divisor counts most."""
SURE = 3.0
"""So many standard errors decide. (The demo: 0.24 bits per byte, ten of them.)"""
LEAST = 0.015
"""And this share of the bits: a model of other text can be surer than it should be, which a larger divisor repairs.
Two weak plain models took 0.4 and 0.6 % fewer bits off by one, by three and five standard errors; the demo takes 5 %
more."""
KNOWN = 0.9
"""A model that knows something of the text needs at most this share of the bits that guessing takes."""
LOSS_ROWS = 64


@dataclass(frozen=True)
class SoftmaxMeasurement:
    """Bits per byte of PASSAGES with each kind of softmax; `noise` is the standard error of their difference over the
    passages, `guessing` what equal probabilities of all ids take."""

    plain: float
    off_by_one: float
    noise: float
    guessing: float

    @property
    def needed(self) -> float:
        """The difference that decides, in bits per byte."""
        return max(SURE * self.noise, LEAST * min(self.plain, self.off_by_one))

    @property
    def decided(self) -> bool:
        known = min(self.plain, self.off_by_one) < KNOWN * self.guessing
        return known and abs(self.plain - self.off_by_one) > self.needed

    @property
    def softmax_one(self) -> bool:
        return self.decided and self.off_by_one < self.plain

    def __str__(self) -> str:
        found = f"softmax: {self.plain:.2f} bits per byte plain, {self.off_by_one:.2f} off by one"
        if self.decided:
            return f"{found}: imported as {'off by one' if self.softmax_one else 'plain'}"
        why = f"guessing takes {self.guessing:.2f}"
        if min(self.plain, self.off_by_one) < KNOWN * self.guessing:
            why = f"a difference of {self.needed:.3f} would"
        return f"{found}, which decides nothing ({why}): imported as plain"


@torch.no_grad()
def measure_softmax(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> SoftmaxMeasurement:
    """The losses of the weights in `folder` with both kinds, in fp32 on the CPU. About 500 tokens are read."""
    texts = [[tokenizer.end_of_text, *tokenizer.encode(text)][: config.context + 1] for text in PASSAGES]
    sizes = torch.tensor([sum(len(tokenizer.token_bytes(token)) for token in ids[1:]) for ids in texts])
    lengths = torch.tensor([len(ids) - 1 for ids in texts])
    longest = int(lengths.max())
    ids = torch.tensor([text + [tokenizer.padding] * (longest + 1 - len(text)) for text in texts])
    counted = torch.arange(longest) < lengths[:, None]  # (passages, longest)
    model = load_weights(config, folder / WEIGHTS_FILE, "cpu")
    bits_of = partial(_bits, model, ids, counted)
    plain, off_by_one = bits_of(False), bits_of(True)
    difference, n_bytes = plain - off_by_one, int(sizes.sum())
    return SoftmaxMeasurement(
        plain=float(plain.sum()) / n_bytes,
        off_by_one=float(off_by_one.sum()) / n_bytes,
        noise=float(difference.std()) * math.sqrt(len(difference)) / n_bytes,
        guessing=int(lengths.sum()) * math.log2(config.vocabulary_rows) / n_bytes,
    )


def _bits(model: Parakeet, ids: torch.Tensor, counted: torch.Tensor, softmax_one: bool) -> torch.Tensor:
    """(passages,) float64 bits of each, for ids (passages, longest + 1) and which of the targets count."""
    model.config = replace(model.config, softmax_one=softmax_one)
    hidden = model(ids[:, :-1], torch.where(counted, 0, -1))[counted]  # (tokens, width)
    losses = torch.zeros(counted.shape, dtype=torch.float64)
    losses[counted] = token_losses(hidden, model.embedding.weight, ids[:, 1:][counted], LOSS_ROWS).double()
    return losses.sum(1) / math.log(2)
