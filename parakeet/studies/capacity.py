"""How many bits of random text a model holds."""

from typing import Any

from parakeet.recipe_sources import RandomSource
from parakeet.studies.measure import Measure, Trained


class Capacity(Measure):
    """Memorised bits of the recipe's random text; None if it has no source of kind random.

    What `parakeet.memorisation.capacity.code_length` tells of the training documents, and `held_out_share`: the same
    share of held-out documents, which is what chance gives.
    """

    name = "capacity"

    def measure(self, trained: Trained) -> dict[str, Any] | None:
        from parakeet.memorisation.capacity import code_length

        subject = trained.subject
        source = next((one for one in subject.recipe.sources if isinstance(one, RandomSource)), None)
        if source is None:
            return None
        found, held_out = (
            code_length(subject.model, subject.tokenizer, shards, source, subject.progress)
            for shards in (subject.train, subject.held_out)
        )
        return {**found, "held_out_share": held_out["share"]}
