"""`parakeet plan`: the table of sources; and the share that `--limit` takes, as a user gives it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.cli import main


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def sources(text: str) -> tuple[str, list[str]]:
    """Title and lines of the section."""
    (section,) = [part for part in text.split("\n\n") if part.startswith("Sources")]
    title, *lines = section.splitlines()
    return title, lines


def recipe_file(folder: Path, sources: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text("extends: demo\nname: mine\nsources:\n" + sources, encoding="utf-8")
    return str(path)


def test_the_large_recipe_is_a_table_that_fits_a_terminal() -> None:
    title, lines = sources(plan("--recipe", "parakeet-50gb"))
    assert title == "Sources"
    assert lines[0].split() == ["weight", "epochs", "rows", "download", "text", "tokens"]
    assert max(map(len, lines)) <= 110
    row = next(number for number, line in enumerate(lines) if line.startswith("  cosmopedia-v2 "))
    assert " ".join(lines[row].split()[1:]) == "60.62% 1 6.77 M 19.7 GiB 27.9 GiB 6.98 B ODC-BY-1.0"
    assert lines[row + 1].strip() == ("hub HuggingFaceTB/smollm-corpus@3ba9d60577; prompt is Human, text is Assistant")
    text = "\n".join(lines)
    assert "hub meta-math/MetaMathQA@main; query is Human, response is Assistant" in text
    assert "; turns in conversations (from, value)" in text
    assert "; documents parted by <|endoftext|>" in text
    assert "; Human and Assistant in turn in data" in text
    assert "; textbook is the document" in text
    assert "download huggingface.co, databricks-dolly-15k.jsonl, pinned by hash; columns as recognised" in text
    shares = [float(share[1]) for line in lines if (share := re.search(r" ([\d.]+)% ", line))]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert " ".join(lines[-1].split()) == "total 14.7 M 36.7 GiB 46.2 GiB 11.5 B"


@pytest.mark.parametrize("share", ["0.1%", "0.001"])
def test_a_share_of_everything_is_planned(share: str) -> None:
    title, lines = sources(plan("--recipe", "parakeet-50gb", "--limit", share))
    assert title == "Sources, 0.1% of each"
    assert " ".join(lines[-1].split()) == "total 14,760 2.6 GiB 47.3 MiB 11.5 M"
    row = next(number for number, line in enumerate(lines) if line.startswith("  openhermes-2.5 "))
    assert "1.8 GiB" in lines[row]  # one file of JSON
    assert lines[row + 1].endswith("; turns in conversations (from, value); fetched whole")
    assert sum("fetched" in line for line in lines) == 3
    assert "    100 dialogues" in lines


def test_local_files_are_their_paths_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 7100, encoding="utf-8")
    generated = "  - {name: b, kind: synthetic, documents: 300}\n  - {name: c, kind: random, documents: 1000}\n"
    path = recipe_file(tmp_path, "  - {name: a, path: a.txt}\n" + generated)
    _, lines = sources(plan("--recipe", path))
    assert [line.split(maxsplit=1) for line in lines] == [
        ["a", f"{tmp_path}/a.txt"],
        ["1", "file of 6.9 KiB, at most 6.9 KiB of text, about 3,090 tokens"],
        ["b", "300 dialogues"],
        ["c", "1,000 documents of 64 random symbols, 384,000 bits"],
    ]


def test_a_local_file_that_is_missing_is_said(tmp_path: Path) -> None:
    text = plan("--recipe", recipe_file(tmp_path, "  - {name: a, path: a.txt}\n"))
    assert "does not exist or cannot be reached" in " ".join(text.split())


def test_every_kind_of_source_with_a_weight_has_its_place_and_its_dashes(tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path,
        f"  - {{name: {'n' * 40}, path: a.txt, weight: 1, licence: {'words ' * 20}}}\n"
        "  - {name: b, kind: bucket, path: 's3://b/x/*.jsonl', endpoint: 'http://here:9000', weight: 1}\n"
        "  - {name: c, kind: download, files: [{drive_id: 0123456789a, file_name: c.txt}, {url: 'http://x/d.txt'}],\n"
        "     weight: 2, epochs: 0.5, columns: {system: s, human: h, assistant: r}}\n",
    )
    text = plan("--recipe", path)
    _, lines = sources(text)
    assert lines[1] == "  " + "n" * 40
    assert lines[2].split()[:7] == ["25.00%", "1", "-", "-", "-", "-", "words"]
    assert "    bucket s3://b/x/*.jsonl at http://here:9000; columns as recognised" in lines
    assert "    download Google Drive, c.txt and 1 more; s is System, h is Human, r is Assistant" in lines
    assert next(line for line in lines if line.startswith("  c ")).split()[:3] == ["c", "50.00%", "0.5"]
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("place", "download", "words"),
    [
        ("kind: hub, dataset: a/b, files: ['*.jsonl']", "9.8 KiB", ""),
        ("kind: hub, dataset: a/b, files: ['*.jsonl.GZ']", "9.5 MiB", "; fetched in whole files, at most all"),
        ("kind: bucket, path: 's3://b/x.tar'", "9.5 MiB", "; fetched whole"),
        ("kind: download, files: [{url: 'http://x/a.json?b=c'}]", "9.5 MiB", "; fetched whole"),
        ("kind: download, files: [{drive_id: 0123456789a, file_name: c.txt}]", "9.5 MiB", "; fetched whole"),
    ],
)
def test_what_cannot_be_cut_is_planned_whole(tmp_path: Path, place: str, download: str, words: str) -> None:
    path = recipe_file(tmp_path, f"  - {{name: a, {place}, weight: 1, forecast: {{download_bytes: 10_000_000}}}}\n")
    _, lines = sources(plan("--recipe", path, "--limit", "0.1%"))
    assert download in lines[1]
    assert lines[2].endswith(f"columns as recognised{words}")
    assert "fetched" not in plan("--recipe", path)


def test_a_query_is_not_shown(tmp_path: Path) -> None:
    url, store = "url: 'http://x/a.txt?key=1234'", "path: 's3://b/c', endpoint: 'http://y/z?key=1234'"
    path = recipe_file(
        tmp_path,
        f"  - {{name: a, kind: download, files: [{{{url}}}], weight: 1}}\n"
        f"  - {{name: b, kind: bucket, {store}, weight: 1}}\n",
    )
    text = plan("--recipe", path)
    assert "1234" not in text
    assert "bucket s3://b/c at http://y/z;" in text


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize("share", ["0", "0%", "1.5", "101%", "-1%", "nan", "inf", "some", "1e-999", "%", ""])
def test_what_is_no_share_is_one_clear_message(command: str, share: str) -> None:
    result = CliRunner().invoke(main, [command, "--limit", share])
    assert result.exit_code == 2
    assert "is not a share above 0 and at most 100%: write it like 0.1% or 0.001." in result.output
