"""`parakeet push`."""

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_models_and_folders
from parakeet.cli.output import check_answerable, confirm, examples
from parakeet.export.formats import FORMATS

PUSHED_FORMATS = ("hf", "gguf")


@click.command(
    short_help="Upload a model to the Hugging Face hub.",
    epilog=examples(
        "parakeet push me/my-model",
        "parakeet push me/my-model --model demo --private",
        "parakeet push me/my-model-gguf --format gguf --dtype q8_0",
        "parakeet push me/my-model --dry-run",
    ),
)
@click.argument("repo", metavar="REPO")
@click.option(
    "--model",
    metavar="NAME",
    help="A model by name, or its folder.  [default: the one that `parakeet chat` opens]",
    shell_complete=complete_models_and_folders,
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(PUSHED_FORMATS),
    default="hf",
    show_default=True,
    help="; ".join(f"{name}: {FORMATS[name].summary}" for name in PUSHED_FORMATS) + ".",
)
@click.option(
    "--dtype",
    type=click.Choice(sorted({dtype for name in PUSHED_FORMATS for dtype in FORMATS[name].dtypes})),
    help="What the weights are stored in.  [default: "
    + ", ".join(f"{FORMATS[name].dtypes[0]} ({name})" for name in PUSHED_FORMATS)
    + "]",
)
@click.option("--private", is_flag=True, help="Make a new repository that only you can see.")
@click.option("--dry-run", is_flag=True, help="Only print what would be uploaded.")
@click.option("--yes", is_flag=True, help="Upload without asking.")
def push(repo: str, model: str | None, layout: str, dtype: str | None, private: bool, dry_run: bool, yes: bool) -> None:
    """Export a model, and upload it to the repository OWNER/NAME on the Hugging Face hub.

    First prints what would be uploaded, and asks. A repository that does not exist is made. An upload that broke off
    goes on when the same command is run again.
    """
    from parakeet.export.push import Hub, check_one_format, check_repository_name, exported, render_plan
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.release.listing import latest_model_folder, listed_model, model_folder

    check_repository_name(repo)
    root, dtype = home(), dtype or FORMATS[layout].dtypes[0]
    release = latest_model_folder(root) if model is None else model_folder(root, model)
    if not dry_run:
        check_answerable(yes, "pushed")
    hub = Hub()
    repository = hub.repository(repo, private)
    check_one_format(repository, layout)
    with exported(root, release, repository.name, layout, dtype, Progress()) as folder:
        listed = listed_model(root, release)
        say(render_plan(hub, repository, listed, release, layout, dtype, folder))
        if dry_run:
            say("Nothing was pushed: this is a dry run.")
            return
        confirm(f"Upload to {hub.address}/{repository.name}?", yes, "pushed")
        commit = hub.upload(repository, folder, f"Upload {listed.name if listed else release.name}")
    if commit is None:
        say(f"{repository.name} has all of these files already.")
    else:
        say(f"Pushed: {hub.address}/{repository.name} (commit {commit})")
