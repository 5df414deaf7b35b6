"""`parakeet index`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_recipes, completing
from parakeet.cli.output import examples, json_option, say_json
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.artifact import Artifact

STAGE = "trace_index"


def _folders(context: click.Context, incomplete: str) -> list[str]:
    from parakeet.home import home

    return [str(path) for path in (home() / STAGE).glob("*-*") if not path.name.startswith(".")]


folder_argument = click.argument(
    "folder",
    metavar="[FOLDER]",
    required=False,
    default=None,
    type=click.Path(path_type=Path),
    shell_complete=completing(_folders, or_file=True),
)


@click.group()
def index() -> None:
    """Build or check the trace index, which finds passages in the training text."""


@index.command(
    short_help="Build the trace index.",
    epilog=examples("parakeet index build", "parakeet index build --recipe my-recipe.yaml"),
)
@click.option(
    "--recipe",
    "recipe_name",
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.  [default: the one built last]",
)
@click.option("--force", is_flag=True, help="Rebuild it even if it is up to date.")
@click.pass_context
def build(context: click.Context, recipe_name: str | None, force: bool) -> None:
    """Build the trace index of a recipe's training text, and what it needs. What is already built is reused."""
    from parakeet.cli.build import build as build_assets
    from parakeet.home import home
    from parakeet.stages import recipe_built_last

    chosen = recipe_name or recipe_built_last(home())
    context.invoke(build_assets, recipe_name=chosen, select=(STAGE,), force=(STAGE,) if force else ())


@index.command(
    short_help="Show what the trace index holds.",
    epilog=examples("parakeet index info", "parakeet index info --json"),
)
@folder_argument
@json_option
def info(folder: Path | None, as_json: bool) -> None:
    """Show what a trace index holds, what it was made from, and which models were trained on that text.

    FOLDER is the index. Without it, the latest is shown.
    """
    from parakeet.formatting import format_bytes, render_table

    artifact = _chosen(folder)
    document = _document(artifact)
    if as_json:
        say_json(document)
        return
    models = document.pop("models")
    facts = {name.replace("_", " "): value for name, value in document.items()}
    facts["bytes"] = f"{format_bytes(artifact.n_bytes)}, {artifact.n_bytes / max(1, document['tokens']):.2f} a token"
    for name in ("repeats", "sources"):
        facts.pop(name)
    facts["sources"] = ", ".join(document["sources"])
    facts["models"] = ", ".join(f"{model['name']} ({model['id']})" for model in models) or "none here"
    say(render_table(("", ""), list(facts.items())))


@index.command(
    short_help="Check the trace index thoroughly.",
    epilog=examples("parakeet index verify", "parakeet index verify assets/trace_index/latest"),
)
@folder_argument
def verify(folder: Path | None) -> None:
    """Check the hashes of a trace index, its separators and counts, that its positions are a permutation, and the
    order of 1,000 neighbours in each of its shards.

    FOLDER is the index. Without it, the latest is checked.
    """
    from parakeet.progress import Progress
    from parakeet.trace.index import TraceIndex
    from parakeet.trace.verify import verify_index

    artifact = _chosen(folder)
    artifact.check(thorough=True)
    found = TraceIndex.open(artifact.path)
    verify_index(found, Progress())
    say(f"{artifact.path}: {found.tokens:,} tokens of {found.documents:,} documents, all in order.")


def _chosen(folder: Path | None) -> "Artifact":
    """The index in a folder, or the one that was built last."""
    from parakeet.artifact import Artifact
    from parakeet.home import home

    path = (home() / STAGE / "latest") if folder is None else folder
    if folder is None and not path.exists():
        raise ParakeetError(f"There is no trace index in {home()} yet. Make one with: parakeet index build")
    artifact = Artifact.open(path.resolve())
    if artifact.stage != STAGE:
        raise ParakeetError(f"{path} is an artefact of {artifact.stage}, not a trace index.")
    return artifact


def _document(artifact: "Artifact") -> dict[str, Any]:
    from parakeet.home import home
    from parakeet.release.listing import list_models
    from parakeet.trace.index import TraceIndex
    from parakeet.trace.stored import trained_on

    found = TraceIndex.open(artifact.path)
    models = []
    for model in list_models(home())[0]:
        try:
            if trained_on(model.directory).shards_content == found.shards_content:
                models.append({"name": model.name, "id": model.directory.name})
        except ParakeetError:
            continue  # an imported model
    return {
        "folder": str(artifact.path),
        "tokens": found.tokens,
        "documents": found.documents,
        "shards": len(found.shards),
        "bytes": artifact.n_bytes,
        "builder": found.builder,
        "built": artifact.manifest["made"],
        "seconds": artifact.manifest["seconds"],
        "token_shards": found.shards_content,
        "tokenizer": found.tokenizer_hash,
        "sources": list(found.sources),
        "repeats": artifact.counts["repeats"],
        "models": models,
    }
