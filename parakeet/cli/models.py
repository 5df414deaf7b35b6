"""`parakeet models`, `verify`, `import` and `export`."""

from pathlib import Path

import click

from parakeet.cli.common import say
from parakeet.errors import ParakeetError


@click.command()
def models() -> None:
    """List the models that were built or imported here. `parakeet chat` opens the one marked *."""
    from parakeet.formatting import render_table
    from parakeet.home import home
    from parakeet.release.verify import released_models

    listed = list(released_models(home()))
    if not listed:
        raise ParakeetError("There is no model yet. Make one with: parakeet build")
    rows = []
    for model in listed:
        bits = ", ".join(f"{name} {value:.3f}" for name, value in model.bits_per_byte.items() if value is not None)
        mark = "*" if model.latest else ""
        rows.append((mark, model.name, model.parameters, model.made, bits or "not measured", model.directory))
    say(render_table(("", "Model", "Parameters", "Built", "Bits per byte", "Folder"), rows))


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check the files of an artefact or a release against their hashes."""
    from parakeet.artifact import MANIFEST_FILE, Artifact
    from parakeet.release.verify import SUMS_FILE, verify_release

    if not path.is_dir():
        raise ParakeetError(f"{path} is not a folder: give the folder of an artefact or a release.")
    checked = 0
    if (path / SUMS_FILE).is_file():
        checked = verify_release(path)
    if (path / MANIFEST_FILE).is_file() or not checked:
        artifact = Artifact.open(path)
        artifact.check(thorough=True)
        checked = len(artifact.manifest["files"])
    say(f"{path}: {checked} files, all match.")


@click.command("import")
@click.argument("file", metavar="FILE.pth", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to create.  [default: imported/NAME]")
@click.option("--heads", type=click.IntRange(1), help="Attention heads, if not in the file's name.")
@click.option("--context", type=click.IntRange(1), help="Context in tokens, if not in the file's name.")
def import_command(file: Path, output: Path | None, heads: int | None, context: int | None) -> None:
    """Convert an original checkpoint (.pth) to a release.

    Nothing in the file is executed: a separate process reads only its tensors.
    """
    from parakeet.progress import Progress
    from parakeet.release.importing import import_file

    directory = import_file(file, output, heads, context, Progress())
    say(f"Imported. Talk to it with: parakeet chat --model {directory}")


@click.command()
@click.argument("release", metavar="RELEASE", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["original"]),
    required=True,
    help="original: the .pth file of the original model.",
)
def export(release: Path, file: Path, layout: str) -> None:
    """Write the weights of a release in another format."""
    from parakeet.release.importing import export_original

    export_original(release, file)
    say(f"{file}: the weights of {release} in the {layout} layout.")
