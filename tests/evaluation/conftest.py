from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.base import Subject
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ..conftest import Prepared


def subject_of(
    prepared: Prepared,
    model: Parakeet,
    held_out: TokenShards | None = None,
    recipe: Recipe | None = None,
    documents: list[int] | None = None,
) -> Subject:
    """A model over the prepared shards, or over others; all their documents are the source "all"."""
    held_out = held_out or TokenShards(prepared.shards, "held_out", prepared.tokenizer)
    return Subject(
        recipe or prepared.recipe,
        model,
        Engine(Decoder(model, "fp32"), prepared.tokenizer),
        prepared.tokenizer,
        train=TokenShards(prepared.shards, "train", prepared.tokenizer),
        held_out=held_out,
        documents={"all": list(range(len(held_out))) if documents is None else documents, "nothing": []},
        questions=[],
        progress=Progress(),
    )
