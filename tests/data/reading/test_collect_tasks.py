"""The stage `documents` as tasks: any number of workers, kills, limits, remote sources, and where documents stood."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.sources import is_sampled
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import DownloadSource, FileSource, RemoteFile, Source, SyntheticSource

from .collecting import collect, documents, jsonl, recipe_of, rows

RUN = (
    "import sys; from pathlib import Path; from parakeet.progress import Progress\n"
    "from parakeet.data.reading.collect import collect_documents; from parakeet.recipe import Recipe\n"
    "recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())\n"
    "collect_documents(recipe, {}, Path(sys.argv[2]), Progress())"
)


def content(output: Path) -> dict[str, str]:
    """Names and hashes of what is part of the artefact."""
    files = [path for path in output.rglob("*") if path.is_file() and "work" not in path.relative_to(output).parts]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def several(folder: Path) -> list[Source]:
    """Eight sources, so eight tasks."""
    texts = {name: [f"{name} {row} " * 20 for row in range(3000)] for name in "abcdefg"}
    files = [FileSource(name=name, path=jsonl(folder / f"{name}.jsonl", lines)) for name, lines in texts.items()]
    return [*files, SyntheticSource(name="talk", kind="synthetic", documents=300, seed=3)]


def test_two_workers_write_what_one_does(tmp_path: Path) -> None:
    sources = several(tmp_path)
    one, two = (collect(tmp_path / str(n), recipe_of(*sources, workers=n)) for n in (1, 2))
    assert one == two
    assert content(tmp_path / "1") == content(tmp_path / "2")


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_after_a_kill_the_rest_is_done_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    recipe = recipe_of(*several(tmp_path))
    collect(tmp_path / "undisturbed", recipe)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
    output = tmp_path / "killed"
    output.mkdir()
    completions = output / "work/reading/completions"
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "recipe.json"), str(output)]) as process:
        while process.poll() is None and len(list(completions.glob("*"))) < 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = {path.name: path.stat().st_mtime_ns for path in completions.iterdir()}
    assert 2 <= len(done) < 8
    for _ in range(2):  # and once more, as after a kill between the tasks and the manifest
        collect(output, recipe)
        assert content(output) == content(tmp_path / "undisturbed")
    after = {path.name: path.stat().st_mtime_ns for path in completions.iterdir()}
    assert {name: after[name] for name in done} == done


def test_documents_say_where_they_stood_and_never_where_the_checkout_lies(tmp_path: Path) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    jsonl(tmp_path / "set/deep/a.jsonl", ["one", "two"])
    pq.write_table(pa.table({"text": ["three"], "id": ["x"]}), tmp_path / "set/b.parquet")
    with zipfile.ZipFile(tmp_path / "set/c.zip", "w") as archive:
        archive.writestr("in/d.txt", "\n\nfour\n")
    sources = [
        FileSource(name="folder", path=str(tmp_path / "set")),
        FileSource(name="glob", path=str(tmp_path / "set/*/*.jsonl")),
        FileSource(name="file", path=str(tmp_path / "set/b.parquet")),
        SyntheticSource(name="talk", kind="synthetic", documents=100),
    ]
    collect(tmp_path / "output", recipe_of(*sources))
    found = [(d.source, d.metadata) for d in documents(tmp_path / "output")]
    assert found[:6] == [
        ("folder", {"file": "b.parquet", "row": 1, "id": "x"}),
        ("folder", {"file": "c.zip/in/d.txt", "row": 3}),
        ("folder", {"file": "deep/a.jsonl", "row": 1}),
        ("folder", {"file": "deep/a.jsonl", "row": 2}),
        ("glob", {"file": "deep/a.jsonl", "row": 1}),
        ("glob", {"file": "deep/a.jsonl", "row": 2}),
    ]
    assert found[6] == ("file", {"file": "b.parquet", "row": 1, "id": "x"})
    assert not any("file" in metadata for source, metadata in found if source == "talk")


def test_a_schema_change_in_the_middle_of_a_set_is_reported_with_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set/1.jsonl", [f"{n}" for n in range(500)])
    pq.write_table(pa.table({"body": ["now", "called", "otherwise"]}), tmp_path / "set/2.parquet")
    jsonl(tmp_path / "set/3.jsonl", [f"{n}" for n in range(500)])
    source = FileSource(name="mine", path=str(tmp_path / "set"))
    counts = collect(tmp_path / "output", recipe_of(source))["sources"]["mine"]
    assert (counts["files"], counts["documents"], counts["bad_reasons"]) == (3, 1000, {"unknown columns": 3})
    problems = rows(tmp_path / "output/problems.jsonl")
    assert [(problem["file"], problem["row"]) for problem in problems] == [("2.parquet", row) for row in (1, 2, 3)]
    assert problems[0]["reason"].startswith("unknown columns: body")
    jsonl(tmp_path / "set/1.jsonl", ["few"])
    jsonl(tmp_path / "set/3.jsonl", ["few"])
    with pytest.raises(ParakeetError, match=r"3 of 5 records cannot be used.*\n.*set/2\.parquet:1: unknown columns"):
        collect(tmp_path / "again", recipe_of(source))


def test_a_schema_change_between_two_parquet_files_is_reported_with_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"text": [f"{n}" for n in range(300)]}), tmp_path / "set/0.parquet")
    # Row groups of two: the rows count through the file all the same.
    later = pa.table({"text": pa.array([["in a list"]] * 3), "id": ["a", "b", "c"]})
    pq.write_table(later, tmp_path / "set/1.parquet", row_group_size=2)
    source = FileSource(name="mine", path=str(tmp_path / "set"))
    counts = collect(tmp_path / "output", recipe_of(source))["sources"]["mine"]
    assert (counts["documents"], counts["bad_reasons"]) == (300, {"content is not text": 3})
    problems = rows(tmp_path / "output/problems.jsonl")
    assert [(problem["file"], problem["row"]) for problem in problems] == [("1.parquet", row) for row in (1, 2, 3)]
    pq.write_table(pa.table({"words": ["a", "b"] * 10}), tmp_path / "set/1.parquet")
    with pytest.raises(ParakeetError, match=r"20 of 320 .*\(unknown columns\).*\n.*set/1\.parquet:1: .* words"):
        collect(tmp_path / "again", recipe_of(source))


def test_a_member_that_leads_out_of_its_archive_is_reported_and_written_nowhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/a.zip", "w") as archive:
        archive.writestr("../../evil.txt", "evil")
        archive.writestr("a.jsonl", '{"text": "x"}\n' * 150)
    source = FileSource(name="mine", path=str(tmp_path / "in"))
    counts = collect(tmp_path / "output", recipe_of(source))["sources"]["mine"]
    assert (counts["records"], counts["bad_reasons"]) == (151, {"refused archive member": 1})
    (problem,) = (tmp_path / "output/problems.jsonl").read_text().splitlines()
    assert json.loads(problem)["file"] == "a.zip/../../evil.txt"
    assert not list(tmp_path.rglob("evil.txt"))


class TestLimit:
    @given(share=st.fractions(Fraction(1, 5000), 1), count=st.integers(0, 5000))
    def test_the_sample_is_even(self, share: Fraction, count: int) -> None:
        kept = [index for index in range(count) if is_sampled(index, share)]
        assert len(kept) == count * share.numerator // share.denominator
        gaps = {after - before for before, after in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1

    def test_every_record_is_accounted_for(self, tmp_path: Path) -> None:
        for number in range(20):
            jsonl(tmp_path / f"{number:02d}.jsonl", [f"{number} {row}" for row in range(7)])
        few = FileSource(name="few", path=jsonl(tmp_path / "few.jsonl", ["a", "b"]))
        many = FileSource(name="many", path=str(tmp_path / "[0-9]*.jsonl"))
        talk = SyntheticSource(name="talk", kind="synthetic", documents=400)
        counts = collect(tmp_path / "output", recipe_of(many, few, talk, limit=0.3))["sources"]
        taken = {name: (c["records"], c["documents"], c["not_taken"]) for name, c in counts.items()}
        # The first record of a source is always taken; small files are sampled as one.
        assert taken == {"many": (140, 43, 97), "few": (2, 1, 1), "talk": (120, 120, 0)}
        assert [d.content for d in documents(tmp_path / "output")][:3] == ["0 0", "0 3", "0 6"]

    def test_what_is_not_taken_is_not_judged(self, tmp_path: Path) -> None:
        source = FileSource(name="mine", path=jsonl(tmp_path / "a.jsonl", ["good", *["bad\0"] * 8, "good"]))
        counts = collect(tmp_path / "output", recipe_of(source, limit=0.1))["sources"]["mine"]
        assert (counts["documents"], counts["bad"], counts["not_taken"]) == (2, 0, 8)


class TestRemote:
    SOURCE = DownloadSource(name="far", kind="download", files=[RemoteFile(url="http://x/a.txt")], separator="---")

    @staticmethod
    def fetched(folder: Path, share: float) -> dict[str, Path]:
        """The folder as the artefact of which the manifest says that so much was fetched."""
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps({"schema": 1, "counts": {"share": share}}))
        return {"source_files/far": folder}

    @pytest.mark.parametrize(("share", "taken"), [(1.0, 10), (0.5, 20), (0.01, 1000), (0.009, 1000)])
    def test_of_what_was_fetched_beyond_the_limit_a_sample_is_taken(
        self, tmp_path: Path, share: float, taken: int
    ) -> None:
        inputs = self.fetched(tmp_path / "files", share)
        (tmp_path / "files/a.json").write_text(json.dumps([{"text": str(number)} for number in range(1000)]))
        counts = collect(tmp_path / "output", recipe_of(self.SOURCE, limit=0.01), inputs)["sources"]["far"]
        # And the first record of all.
        expected = taken if taken == 1000 else taken + 1
        assert (counts["documents"], counts["not_taken"]) == (expected, 1000 - expected)

    def test_its_files_are_read_and_the_artefacts_own_are_not(self, tmp_path: Path) -> None:
        for name in ("data/a.txt", "data/manifest.json", "work/b.txt", "README"):
            (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / name).write_text('{"text": "x"}' if name.endswith("json") else "one\n---\ntwo\n")
        recipe = recipe_of(self.SOURCE, limit=0.01)
        counts = collect(tmp_path / "output", recipe, self.fetched(tmp_path / "files", share=0.01))
        assert (counts["sources"]["far"]["files"], counts["sources"]["far"]["not_taken"]) == (2, 0)
        assert [(d.content, d.metadata) for d in documents(tmp_path / "output")] == [
            ("one", {"file": "data/a.txt", "row": 1}),
            ("two", {"file": "data/a.txt", "row": 3}),
            ("x", {"file": "data/manifest.json", "row": 1}),
        ]

    def test_nothing_to_read_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        (tmp_path / "files/manifest.json").write_text("{}")
        with pytest.raises(ParakeetError, match="far: Parakeet reads none of the downloaded files"):
            collect(tmp_path / "output", recipe_of(self.SOURCE), {"source_files/far": tmp_path / "files"})


def test_a_document_with_a_held_out_question_is_left_out_and_shown(tmp_path: Path) -> None:
    talk = SyntheticSource(name="talk", kind="synthetic", documents=100)
    collect(tmp_path / "first", recipe_of(talk))
    question = json.loads((tmp_path / "first/questions.jsonl").read_text().splitlines()[0])["prompt"]
    leak = FileSource(name="leak", path=jsonl(tmp_path / "a.jsonl", ["innocent", f"So: {question.upper()} Yes."]))
    counts = collect(tmp_path / "second", recipe_of(talk, leak))["sources"]
    assert (counts["talk"]["bad"], counts["leak"]["documents"]) == (0, 1)
    assert counts["leak"]["bad_reasons"] == {"held-out question": 1}
    assert [d.content for d in documents(tmp_path / "second") if d.source == "leak"] == ["innocent"]
    (problem,) = map(json.loads, (tmp_path / "second/problems.jsonl").read_text().splitlines())
    assert (problem["file"], problem["row"], problem["excerpt"]) == ("a.jsonl", 2, f"So: {question.upper()} Yes.")
    assert problem["reason"] == f"held-out question: {question.casefold()}"


@pytest.mark.parametrize("empty", [2000, 12_000])
def test_what_is_normal_ends_a_task_only_where_there_is_nothing_else(tmp_path: Path, empty: int) -> None:
    source = FileSource(name="a", path=jsonl(tmp_path / "a.jsonl", [""] * empty + ["good"] * 2500))
    if empty == 2000:
        assert collect(tmp_path / "output", recipe_of(source))["documents"] == 2500
        return
    with pytest.raises(ParakeetError, match=r"10,000 of 10,000 records cannot be used \(empty text\)\. "):
        collect(tmp_path / "output", recipe_of(source))


def test_a_source_that_is_nearly_all_bad_ends_at_once(tmp_path: Path) -> None:
    """A wrong mapping is reported after a thousand records, not after hours."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"words": "none of this is known"}\n' * 5000, encoding="utf-8")
    with pytest.raises(ParakeetError, match=r"1,000 of 1,000 records cannot be used.*\n.*a\.jsonl:1: unknown columns"):
        collect(tmp_path / "out", recipe_of(FileSource(name="a", path=str(path))))


@pytest.mark.parametrize("count", [5, 2000])
def test_settings_beside_text_are_named_with_the_way_to_read_the_text_alone(tmp_path: Path, count: int) -> None:
    (tmp_path / "set").mkdir()
    for number in range(count):
        (tmp_path / f"set/{number}.json").write_text('{"version": 1}')
    (tmp_path / "set/read me.md").write_text("Some text.")
    with pytest.raises(
        ParakeetError, match=r"cannot be used \(unknown columns\).* such as .*/set/\*\*/\*\.txt, or name"
    ):
        collect(tmp_path / "output", recipe_of(FileSource(name="mine", path=str(tmp_path / "set"))))
