"""All that follows from a recipe by arithmetic, before anything is built."""

from parakeet.model.config import ModelConfig
from parakeet.recipe import FileSource, Recipe
from parakeet.tokenizer import CL100K_CONTROLS, ROLE_TOKENS
from parakeet.training.disk import checkpoint_bytes, run_bytes, weights_bytes
from parakeet.training.schedule import Schedule

CONTROL_TOKENS = 3 + len(ROLE_TOKENS)


def vocabulary_rows(recipe: Recipe) -> int:
    """Rows of the embedding: exact for cl100k_base, an upper bound for a BPE that is yet to be trained."""
    highest = max(CL100K_CONTROLS.values()) + 1
    ids = highest if recipe.tokenizer.kind == "cl100k_base" else recipe.tokenizer.vocabulary + CONTROL_TOKENS
    return -(-ids // 64) * 64


def render_plan(recipe: Recipe) -> str:
    """The plan as plain text, one aligned section after the other."""
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    schedule = Schedule.from_recipe(recipe.training)
    row_tokens, batch_tokens = recipe.packing.row_tokens, recipe.training.batch_tokens
    flops = config.flops_per_token(row_tokens)
    at_most = "at most " if recipe.tokenizer.kind == "bpe" else ""
    sections = [
        (f"Recipe {recipe.name}", [(recipe.description, "")]),
        (
            "Sources",
            [(s.name, s.path if isinstance(s, FileSource) else f"{s.documents:,} dialogues") for s in recipe.sources],
        ),
        (
            "Model",
            [(part, f"{count:>15,}") for part, count in config.parameters().items()]
            + [
                (
                    "parameters in all",
                    f"{config.parameter_count:>15,}  ({at_most}{config.vocabulary_rows:,} embedding rows)",
                )
            ],
        ),
        (
            "Training",
            [
                ("tokens", f"{recipe.training.tokens:>15,}"),
                ("tokens a parameter", f"{recipe.training.tokens / config.parameter_count:>15,.1f}"),
                ("steps", f"{schedule.total_steps:>15,}  of {batch_tokens:,} tokens in rows of {row_tokens:,}"),
                ("warm-up, decay from", f"{schedule.warmup_steps:>15,}  {schedule.decay_start:,}"),
                ("FLOPs a token", f"{flops:>15,}  (causal count, forward and backward)"),
                ("FLOPs in all", f"{flops * recipe.training.tokens:>15.2e}"),
            ],
        ),
        ("Disk", [(name, f"{size / 1e6:>15,.1f} MB") for name, size in _disk(recipe, config).items()]),
    ]
    return "\n\n".join(
        f"{title}\n" + "\n".join(f"  {name:<24}{value}".rstrip() for name, value in rows) for title, rows in sections
    )


def _disk(recipe: Recipe, config: ModelConfig) -> dict[str, int]:
    return {
        "release": weights_bytes(config),
        "a training checkpoint": checkpoint_bytes(config, recipe.training),
        "training at its largest": run_bytes(config, recipe.training),
    }
