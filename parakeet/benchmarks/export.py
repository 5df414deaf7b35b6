"""`parakeet bench export`: how long a model of a recipe's shape takes to export in every format, and its memory."""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from parakeet.benchmarks.generate import write_random_model
from parakeet.benchmarks.process import Answer, MeasuringProcess, MemorySampler, print_result
from parakeet.benchmarks.processor import this_processor
from parakeet.data.synthetic.generator import dialogues
from parakeet.export.formats import FORMATS
from parakeet.formatting import format_bytes, format_duration, render_table
from parakeet.home import home
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.verify import TRAINING_MANIFEST_FILE, write_generation_config, write_json, write_sums
from parakeet.sanitise import sanitise
from parakeet.tokenizer import VOCABULARY_FILE, Tokenizer, cl100k_base, train_tokenizer

ALLOWED_SECONDS = 20.0
"""Of the model with 378 million parameters."""
ALLOWED_SHARE = 1.2
"""Of the bytes of the release's weights, in fp32."""
DIALOGUES = 1_000
"""Text for a vocabulary of the recipe's size."""


def run(recipe: Recipe) -> None:
    """Export random weights of the recipe's shape in each format and dtype; a table, then one JSON line.

    Memory is the anonymous peak of the exporting process, Python and all libraries included. The pages of the weights'
    file are not counted: they are mapped, and the system takes them back when it needs them.
    """
    began = time.perf_counter()
    click.echo(f"processor: {sanitise(str(this_processor()))}")
    with tempfile.TemporaryDirectory() as scratch:
        release = Path(scratch) / "release"
        config = write_random_release(recipe, release)
        weights = (release / WEIGHTS_FILE).stat().st_size
        click.echo(
            f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights, fp32 in the release"
        )
        cases = [(name, dtype) for name, layout in FORMATS.items() for dtype in layout.dtypes]
        exports: dict[str, Answer] = {}
        with Progress().task("Exporting", len(cases), "exports") as task:
            for name, dtype in cases:
                exports[f"{name} {dtype}"] = measure_export(release, name, dtype)
                task.advance()
    left_out = {case: answer["refused"] for case, answer in exports.items() if "refused" in answer}
    done = {case: answer for case, answer in exports.items() if case not in left_out}
    for answer in done.values():
        answer["over"] = answer["seconds"] > ALLOWED_SECONDS or answer["peak_bytes"] > ALLOWED_SHARE * weights
    click.echo(f"\n{_table(done, weights)}")
    click.echo(f"At most {ALLOWED_SECONDS:.0f} s and {ALLOWED_SHARE} of the weights' {format_bytes(weights)}.")
    for case, reason in left_out.items():
        click.echo(f"{case} is left out: {sanitise(reason)}")
    click.echo()
    result = {"benchmark": "export", "recipe": recipe.name, "parameters": config.parameter_count}
    result |= {"weights_bytes": weights, "exports": done, "left_out": left_out, **asdict(this_processor())}
    print_result({**result, "seconds": time.perf_counter() - began})


def write_random_release(recipe: Recipe, folder: Path) -> ModelConfig:
    """A release with random weights of the recipe's shape and a vocabulary of its kind: what an export reads of one."""
    folder.mkdir()
    tokenizer = _tokenizer_of(recipe)
    config = ModelConfig.from_recipe(recipe.model, tokenizer.rows)
    write_random_model(config, folder)
    tokenizer.save(folder)
    write_generation_config(folder, recipe.name, recipe.generation, tokenizer)
    write_json(folder / TRAINING_MANIFEST_FILE, {"source_files": {}, "packages": {}})
    write_sums(folder)
    return config


def _tokenizer_of(recipe: Recipe) -> Tokenizer:
    if recipe.tokenizer.kind == "cl100k_base":
        return cl100k_base(known=sorted(home().glob(f"*/*/{VOCABULARY_FILE}")))
    texts = (turn.content for dialogue in dialogues(DIALOGUES, seed=1) for turn in dialogue.turns)
    return train_tokenizer(texts, recipe.tokenizer.vocabulary)


def measure_export(release: Path, name: str, dtype: str) -> Answer:
    """Export once in a process of its own: seconds, CPU seconds, bytes written, and peak memory; or why it refused.

    What was written is removed.
    """
    with tempfile.TemporaryDirectory(dir=release.parent) as folder:
        request = {"release": str(release), "folder": folder, "format": name, "dtype": dtype}
        with (
            MeasuringProcess("parakeet.benchmarks.exporting:export", request) as process,
            MemorySampler(process.pid) as memory,
        ):
            answer = process.ask()
    return answer if "refused" in answer else answer | {"peak_bytes": memory.main}


def _table(exports: dict[str, Answer], weights: int) -> str:
    rows = [
        (
            case,
            format_duration(answer["seconds"]),
            format_duration(answer["cpu_seconds"]),
            format_bytes(answer["written_bytes"]),
            f"{format_bytes(int(answer['written_bytes'] / answer['seconds']))}/s",
            format_bytes(answer["peak_bytes"]),
            f"{answer['peak_bytes'] / weights:.2f}",
            "over" if answer["over"] else "",
        )
        for case, answer in exports.items()
    ]
    columns = ("export", "time", "CPU time", "written", "rate", "peak memory", "of the weights", "")
    return render_table(columns, rows, right=range(1, 7))
