"""`parakeet study report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.common import open_in_browser, say
from parakeet.cli.output import examples
from parakeet.cli.study_settings import SCALES
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.studies.results import Results

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    short_help="Write what studies have found.",
    epilog=examples(
        "parakeet study report size --open",
        "parakeet study report --all --output docs/article",
        "parakeet study report --all --records docs/article/records --output article",
    ),
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Write the article, on all studies.")
@click.option("--scale", type=click.Choice(SCALES), help="Scale of the runs.  [default: the largest with records]")
@click.option("--output", type=FOLDER, help="Folder to write into.  [default: in the home, beside the records]")
@click.option(
    "--records", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of records beside an article, to read in place of the home's.",
)  # fmt: skip
@click.option("--open", "in_browser", is_flag=True, help="Open the pages in the browser.")
def report(
    names: tuple[str, ...],
    everything: bool,
    scale: str | None,
    output: Path | None,
    records: Path | None,
    in_browser: bool,
) -> None:
    """Write a page on each study NAME, from the records of its finished runs, and print its answer.

    NAME is a shipped study or a file. What is missing is printed too. With --all, the article is written instead: one
    page on all studies, in HTML and in Markdown, with the records beside it.
    """
    from parakeet.home import home
    from parakeet.studies.records import FOLDER as STUDIES

    if bool(names) == everything:
        raise click.UsageError("Give the studies to report on, or --all.")
    if records is not None and (scale is not None or output is None):
        raise click.UsageError("--records needs --output, and takes no --scale: its files have one.")
    if everything:
        from parakeet.studies.article import write_article

        results = _all_results(scale, records)
        paths = write_article(results, output or home() / STUDIES / "article")
        for path in paths:
            say(str(path))
        pages = [path for path in paths if path.suffix == ".html"]
    else:
        pages = [
            _report_one(one, (output / one.name if len(names) > 1 else output) if output else None)
            for one in _results(names, scale, records)
        ]
    for page in pages if in_browser else ():
        open_in_browser(page)


def _results(names: tuple[str, ...], scale: str | None, records: Path | None) -> "list[Results]":
    from parakeet.home import home
    from parakeet.studies.results import gather_results, results_in

    return results_in(records, names) if records else [gather_results(home(), name, scale) for name in names]


def _all_results(scale: str | None, records: Path | None) -> "list[Results]":
    from parakeet.home import home
    from parakeet.studies.results import gather_all, results_in

    return results_in(records) if records else gather_all(home(), scale)


def _report_one(results: "Results", output: Path | None) -> Path:
    from parakeet.formatting import counted, format_duration
    from parakeet.home import home
    from parakeet.studies.article import write_study_page
    from parakeet.studies.chapter import chapter_of
    from parakeet.studies.records import FOLDER as STUDIES

    chapter = chapter_of(results)
    if not results.records:
        raise ParakeetError(f"No run of study {results.name} has finished. {chapter.command.lines[0]} makes them.")
    say(chapter.title)
    say(f"  {chapter.sentence}")
    say(
        f"  {counted(len(results.records), 'run')} at the scale {results.scale}, with "
        f"{counted(len(results.seeds), 'seed')}, {format_duration(results.seconds)} of training."
    )
    for limit in chapter.limits.texts if chapter.limits else ():
        say(f"  - {limit}")
    pages = write_study_page(chapter, output or home() / STUDIES / results.name / results.scale)
    say(f"  {pages[0]}")
    return pages[0]
