"""`parakeet models`, `verify`, `import` and `export`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.common import Whole, say
from parakeet.cli.completion import complete_models, complete_models_and_folders
from parakeet.cli.output import confirm, examples, json_option, list_by_default, say_json, terminal_width, yes_option
from parakeet.errors import ParakeetError
from parakeet.export.formats import FORMATS

if TYPE_CHECKING:
    from parakeet.release.listing import ListedModel

model_argument = click.argument("name", metavar="NAME", shell_complete=complete_models)


@click.group(
    invoke_without_command=True,
    short_help="List, show or remove models.",
    epilog=examples(
        "parakeet models",
        "parakeet models show demo",
        "parakeet models rm e2f4e047",
        "parakeet models --json",
    ),
)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List, show or remove the models that were built or imported here.

    NAME is a model's name or ID, or its first characters. `parakeet models` alone lists them.
    """
    list_by_default(context, list_models_command, as_json)


@models.command("list", epilog=examples("parakeet models list", "parakeet models list --json"))
@json_option
def list_models_command(as_json: bool = False) -> None:
    """List the models, the newest last. `parakeet chat` opens the one marked *."""
    from parakeet.formatting import format_bytes, format_count, format_time, render_table
    from parakeet.home import home
    from parakeet.release.listing import list_models, model_document, short_ids

    listed, faults = list_models(home())
    if as_json:
        say_json({"models": [model_document(model) for model in listed], "unreadable": faults})
        return
    if not listed and not faults:
        raise ParakeetError("There is no model yet. Make one with: parakeet build")
    rows = [
        (
            "*" if model.latest else "",
            model.name,
            short_id,
            model.state or "–",
            format_count(model.parameters),
            format_bytes(model.n_bytes),
            format_time(model.made),
            _bits(model),
        )
        for model, short_id in zip(listed, short_ids(listed), strict=True)
    ]
    head = ("", "MODEL", "ID", "STATE", "PARAMS", "SIZE", "BUILT", "BITS/BYTE")
    if rows:
        say(render_table(head, rows, {4, 5, 7}, terminal_width()))
    for fault in faults:
        say(fault)


@models.command(epilog=examples("parakeet models show demo", "parakeet models show demo --json"))
@model_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Print what a model is, what it was made from, and how good it is."""
    from parakeet.home import home
    from parakeet.release.listing import find_model, model_document, render_model

    model = find_model(home(), name)
    if as_json:
        say_json(model_document(model, in_full=True))
    else:
        say(render_model(model))


@models.command(epilog=examples("parakeet models rm e2f4e047", "parakeet models rm --yes my-import"))
@model_argument
@yes_option
def rm(name: str, yes: bool) -> None:
    """Remove a model. What it was made from stays."""
    from parakeet.clean import remove_model, why_keep_model
    from parakeet.formatting import format_bytes
    from parakeet.home import home
    from parakeet.release.listing import find_model

    model = find_model(home(), name, only_one=True)
    for reason in why_keep_model(home(), model):
        say(reason)
    confirm(f"Remove {model.name} ({model.directory}, {format_bytes(model.n_bytes)})?", yes)
    next_latest = remove_model(home(), model)
    say(f"Removed {model.name}, {format_bytes(model.n_bytes)}.")
    if next_latest is not None:
        say(f"`parakeet chat` now opens {next_latest.name} ({next_latest.directory}).")


@click.command(
    short_help="Check files against their hashes.",
    epilog=examples(
        "parakeet verify  # the model that `parakeet chat` opens",
        "parakeet verify demo",
        "parakeet verify assets/token_shards/latest",
    ),
)
@click.argument("path", metavar="[PATH]", required=False, default=None, shell_complete=complete_models_and_folders)
def verify(path: str | None) -> None:
    """Check the files of a release or another artefact against their hashes.

    PATH is a folder, or a model by name. Without it, the promoted release is checked.
    """
    from parakeet.artifact import MANIFEST_FILE, Artifact
    from parakeet.home import home
    from parakeet.release.listing import latest_model_folder, model_folder
    from parakeet.release.verify import SUMS_FILE, verify_release

    folder = latest_model_folder(home()) if path is None else model_folder(home(), path)
    checked = 0
    if (folder / SUMS_FILE).is_file():
        checked = verify_release(folder)
    if (folder / MANIFEST_FILE).is_file() or not checked:
        artifact = Artifact.open(folder)
        artifact.check(thorough=True)
        checked = len(artifact.manifest["files"])
    say(f"{folder}: {checked} files, all match.")


@click.command(
    "import",
    epilog=examples(
        "parakeet import parakeet8k-c8192-d1152_h18_l18.pth",
        "parakeet import my-checkpoint.pth --heads 18 --context 8192",
    ),
)
@click.argument("file", metavar="FILE.pth", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to create.  [default: imported/NAME]")
@click.option("--heads", type=Whole(1), help="Attention heads, if not in the file's name.")
@click.option("--context", type=Whole(1), help="Context in tokens, if not in the file's name.")
def import_command(file: Path, output: Path | None, heads: int | None, context: int | None) -> None:
    """Convert an original checkpoint (.pth) to a release.

    Nothing in the file is executed: a separate process reads only its tensors.
    """
    from parakeet.progress import Progress
    from parakeet.release.importing import import_file

    directory = import_file(file, output, heads, context, Progress())
    say(f"Imported. Talk to it with: parakeet chat --model {directory}")


@click.command(
    epilog=examples(
        "parakeet export demo demo-hf --format hf",
        "parakeet export demo demo.gguf --format gguf --dtype q8_0",
        "parakeet export --format original assets/original_model/latest my-export.pth",
    ),
)
@click.argument("release", metavar="RELEASE", shell_complete=complete_models_and_folders)
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="; ".join(f"{name}: {layout.summary}" for name, layout in FORMATS.items()) + ".",
)
@click.option(
    "--dtype",
    type=click.Choice(sorted({dtype for layout in FORMATS.values() for dtype in layout.dtypes})),
    help="What the weights are stored in.  [default: "
    + ", ".join(f"{layout.dtypes[0]} ({name})" for name, layout in FORMATS.items())
    + "]",
)
def export(release: str, target: Path, layout: str, dtype: str | None) -> None:
    """Write a release in the format of another program.

    RELEASE is a folder, or a model by name.
    """
    from parakeet.export.formats import export_release
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.release.listing import model_folder

    export_release(model_folder(home(), release), target, layout, dtype, Progress())
    say(f"{target}: {release} in the {layout} layout. {FORMATS[layout].opening.format(shlex.quote(str(target)))}")


def _bits(model: "ListedModel") -> str:
    """The held-out bits per byte of a model's one source, or the range over its sources."""
    measured = sorted(value for value in model.bits_per_byte.values() if value is not None)
    if not measured:
        return "–"
    return f"{measured[0]:.3f}" if len(measured) == 1 else f"{measured[0]:.2f}–{measured[-1]:.2f}"
