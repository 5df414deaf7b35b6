"""`parakeet evaluate`."""

import json
from pathlib import Path

import click

from parakeet.cli.common import Whole, say
from parakeet.cli.completion import complete_models_and_folders
from parakeet.cli.output import check_new_file, examples, say_json, terminal_width


@click.command(
    epilog=examples(
        "parakeet evaluate --task-data ~/benchmarks",
        "parakeet evaluate --suite piqa,sciq --task-data ~/benchmarks --items 200",
        "parakeet evaluate 3fa9@1200 --suite blimp --json scores.json",
    )
)
@click.argument("model", required=False, envvar="PARAKEET_MODEL", shell_complete=complete_models_and_folders)
@click.option("--suite", default="standard", show_default=True, metavar="standard|TASK,…", help="Tasks to score.")
@click.option(
    "--task-data",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder with the tasks' data, as JSON Lines.  [default: downloaded from the Hugging Face hub]",
)
@click.option("--items", type=Whole(1), metavar="N", help="Score at most N items of each task.  [default: all]")
@click.option(
    "--json",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    help="Write the figures to a new FILE too, or - for standard output instead of the table.",
)
def evaluate(model: str | None, suite: str, folder: Path | None, items: int | None, file: Path | None) -> None:
    """Score a model in standard benchmarks.

    MODEL is a name or a folder, as `parakeet models` lists them, or a checkpoint of a run (KEY or KEY@STEP); without
    it, the latest model. The tasks are lambada_openai, hellaswag, piqa, arc_easy, arc_challenge, sciq, winogrande,
    boolq, openbookqa, copa and blimp, all of them in the suite standard, and wikitext. Prompts and metrics are those
    of lm-evaluation-harness, zero-shot. Needs pip install 'parakeet-lm[eval]'.
    """
    printed = file == Path("-")
    if file is not None and not printed:
        check_new_file(file)
    from parakeet.evaluation.benchmarks.command import score_model

    result = score_model(model, suite, folder, items)
    if printed:
        say_json(result)
        return
    from parakeet.evaluation.benchmarks.metric import benchmark_table, notes
    from parakeet.formatting import render_table

    table = benchmark_table(result)
    say(f"{result['model']} ({result['folder']})")
    say(render_table(table.columns, table.rows, table.right_columns, terminal_width()))
    for note in (*notes(result), *result["notes"]):
        say(note)
    if file is not None:
        from parakeet.artifact import replace_file

        replace_file(file, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
