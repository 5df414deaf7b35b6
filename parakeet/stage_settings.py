"""What each stage reads of a recipe, as JSON values, for its fingerprint; and its counts in a few words."""

from typing import Any

from parakeet.recipe import Recipe
from parakeet.training.stage import CHANGEABLE

UNREAD_BY_DOCUMENTS = {"priority", "near_duplicates", "path", "weight", "epochs", "forecast"}
WHERE_TO_FETCH = {"url", "drive_id", "sha256", "n_bytes", "files", "dataset", "revision", "endpoint", "anonymous"}


def documents_settings(recipe: Recipe) -> dict[str, Any]:
    """Where a source comes from is its files' business: their content is an input."""
    hidden = UNREAD_BY_DOCUMENTS | WHERE_TO_FETCH
    sources = [source.model_dump(mode="json", exclude=hidden) for source in recipe.sources]
    return {"sources": sources, "questions_per_task": recipe.evaluation.questions_per_task, "limit": recipe.limit}


def cleaning_settings(recipe: Recipe) -> dict[str, Any]:
    read = {"name", "columns", "separator"}
    sets = [chosen.model_dump(mode="json", include=read) for chosen in recipe.decontamination.sets]
    return {**recipe.part("clean"), "decontamination": {"sets": sets, "words": recipe.decontamination.words}}


def deduplication_settings(recipe: Recipe) -> dict[str, Any]:
    sources = {s.name: {"priority": s.priority, "near_duplicates": s.near_duplicates} for s in recipe.sources}
    return {**recipe.part("deduplication"), "sources": sources}


def packing_settings(recipe: Recipe) -> dict[str, Any]:
    mix = {s.name: {"weight": s.weight, "epochs": s.epochs} for s in recipe.sources}
    return {"row_tokens": sorted(set(recipe.packing.lengths)), "mix": mix}


def data_card_settings(recipe: Recipe) -> dict[str, Any]:
    """All that the data stages read: two recipes may come to the same text, and differ in what the card tells of it."""
    stages = (documents_settings, cleaning_settings, deduplication_settings, packing_settings)
    data = {key: value for settings in stages for key, value in settings(recipe).items() if key != "sources"}
    sources = {source.name: source.model_dump(mode="json", exclude={"path"}) for source in recipe.sources}
    return {**recipe.part("name", "description", "shards", "tokenizer"), **data, "sources": sources}


def checkpoint_settings(recipe: Recipe) -> dict[str, Any]:
    decided_while_running = set(CHANGEABLE) - {"tokens", "decay_fraction"}
    training = recipe.training.model_dump(mode="json", exclude=decided_while_running)
    return {**recipe.part("model", "packing"), "training": training}


def release_settings(recipe: Recipe) -> dict[str, Any]:
    licences = {source.name: source.licence for source in recipe.sources}
    return {**recipe.part("name", "description", "generation"), "licences": licences}


def packing_headline(counts: dict[str, Any]) -> str:
    plans = counts["lengths"].values()
    return ", ".join(f"{c['rows']:,} rows of {c['row_tokens']:,}, {c['fill']:.2%} full" for c in plans)


def evaluation_settings(recipe: Recipe) -> dict[str, Any]:
    """Beside its own section the stage reads row lengths, and how little text it must not measure."""
    trained = {"row_tokens": recipe.packing.row_tokens, "longest_row_tokens": max(recipe.packing.lengths)}
    return {**recipe.part("evaluation"), **trained, "min_held_out_bytes": recipe.shards.min_held_out_bytes}


def evaluation_headline(counts: dict[str, Any]) -> str:
    measured = {name: bits["model"] for name, bits in counts["bits_per_byte"].items() if bits}
    return "bits per byte " + ", ".join(f"{name} {bits:.3f}" for name, bits in measured.items())
