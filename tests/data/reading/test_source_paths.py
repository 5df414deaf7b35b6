"""Which files a source has: names of every kind, patterns, and what is left out."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parakeet.data.reading.sources import find_fetched, find_files, source_root
from parakeet.data.reading.stage import local_files
from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import FileSource, HubSource

NAMES = (
    st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
    | st.text("[]?*{}!%#~ a1é桜", min_size=1, max_size=8)
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 200)


def at(path: Path | str) -> FileSource:
    return FileSource(name="mine", path=str(path))


def write(folder: Path, *names: str, content: str = '{"text": "a"}\n') -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


class TestNames:
    @given(folder=NAMES, name=NAMES)
    @example(folder="[2024] chats", name="a[1]")
    @example(folder="{a,b} *", name="100 % ?")
    @example(folder="**", name="**")
    def test_a_name_that_is_there_is_never_a_pattern(self, folder: str, name: str) -> None:
        with TemporaryDirectory() as root:
            home = Path(root) / folder
            write(home, f"{name}.jsonl", f"{name}.csv")
            # What the name would match as a pattern.
            for other in {"2", "a"} - {folder}:
                write(Path(root), f"{other}/x.jsonl", f"{other}/1.jsonl")
            one, other = sorted([home / f"{name}.csv", home / f"{name}.jsonl"])
            assert find_files(at(home)).files == [one, other]
            assert find_files(at(home / f"{name}.jsonl")).files == [home / f"{name}.jsonl"]
            assert find_files(at(home / "*.jsonl")).files == [home / f"{name}.jsonl"]
            assert find_files(at(home / "*")).files == [one, other]
            for path in (home, home / "*.jsonl", home / "**/*.csv"):
                assert source_root(at(path)) == home
            assert set(local_files([at(home / "*.csv")])) == {f"mine/{name}.csv"}

    @given(folder=NAMES, name=NAMES)
    @example(folder="[2024] chats", name="a[1]")
    def test_also_behind_a_pattern(self, folder: str, name: str) -> None:
        with TemporaryDirectory() as root:
            write(Path(root), f"x/{folder}/{name}.jsonl")
            expected = [Path(root) / "x" / folder / f"{name}.jsonl"]
            assert find_files(at(f"{root}/x*/{folder}/*.jsonl")).files == expected
            assert find_files(at(f"{root}/*/{folder}/{name}.jsonl")).files == expected

    def test_in_a_recipe_and_its_evaluation_sets(self, tmp_path: Path) -> None:
        home = tmp_path / "50 % [draft] {v1}!#"
        write(home, "my [a] data/one.jsonl", "tests?/two.jsonl")
        recipe = home / "r [1].yaml"
        recipe.write_text(
            "extends: demo\nname: mine\nsources: [{name: mine, path: 'my [a] data/*.jsonl'}]\n"
            "decontamination: {sets: [{name: set, path: 'tests?/*.jsonl'}]}\n",
            encoding="utf-8",
        )
        loaded = load_recipe(str(recipe))
        files = local_files([*loaded.sources, *loaded.decontamination.sets])
        assert files == {
            "mine/one.jsonl": home / "my [a] data/one.jsonl",
            "set/two.jsonl": home / "tests?/two.jsonl",
        }

    def test_a_pattern_stays_a_pattern(self, tmp_path: Path) -> None:
        write(tmp_path, "a1.jsonl", "a2.jsonl", "b1.jsonl", "deep/er/a3.jsonl", ".a4.jsonl", "deep/.git/a5.jsonl")
        for pattern, names in {
            "a[12].jsonl": ["a1.jsonl", "a2.jsonl"],
            "?1.jsonl": ["a1.jsonl", "b1.jsonl"],
            "[!a]*.jsonl": ["b1.jsonl"],
            "**/a*.jsonl": ["a1.jsonl", "a2.jsonl", "deep/er/a3.jsonl"],
            "d*/*/*": ["deep/er/a3.jsonl"],
        }.items():
            assert find_files(at(tmp_path / pattern)).files == [tmp_path / name for name in names]
            assert source_root(at(tmp_path / pattern)) == tmp_path

    def test_links_that_lead_round_give_each_file_once(self, tmp_path: Path) -> None:
        write(tmp_path, "data/a.jsonl")
        (tmp_path / "data/round").symlink_to(tmp_path / "data")
        assert find_files(at(tmp_path / "data/**/*.jsonl")).files == [tmp_path / "data/a.jsonl"]

    def test_a_pattern_without_a_match_says_that_it_was_taken_for_one(self, tmp_path: Path) -> None:
        with pytest.raises(ParakeetError, match=r"a\[1\]\.jsonl does not exist, and as a pattern it matches no file"):
            find_files(at(tmp_path / "a[1].jsonl"))


class TestLeftOut:
    def test_by_ending(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jsonl", "b.pdf", "sub/c.PDF", "d.docx", "Makefile", "e.xml.gz", "f.tar.old", ".g", ".git/h")
        found = find_files(at(tmp_path))
        assert found.files == [tmp_path / "a.jsonl"]
        assert found.unread == {".pdf": 2, ".docx": 1, "no ending": 1, ".xml.gz": 1, ".old": 1}
        assert found.beside == []

    def test_folders_that_a_pattern_matches(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jsonl", "deep/b.jsonl")
        assert find_files(at(tmp_path / "*")).unread == {"folder": 1}
        assert find_files(at(tmp_path / "**")).unread == {}

    @pytest.mark.parametrize("data", ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.zst", "data/a.arrow", "a.ndjson"])
    @pytest.mark.parametrize("path", ["", "**", "*"])
    def test_text_beside_records(self, tmp_path: Path, data: str, path: str) -> None:
        write(tmp_path, data, "README.md", "LICENSE.txt", "notes/own.txt", "dataset_infos.json", "x.metadata.json")
        found = find_files(at(tmp_path / path))
        if path == "*":  # not the folders
            beside = ["LICENSE.txt", "README.md", "dataset_infos.json", "x.metadata.json"]
        else:
            beside = ["LICENSE.txt", "README.md", "dataset_infos.json", "notes/own.txt", "x.metadata.json"]
        if path == "*" and data.startswith("data/"):
            beside = []
        assert found.beside == beside
        assert (tmp_path / data in found.files) or path == "*"

    def test_text_that_is_asked_for(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jsonl", "README.md", "b.txt")
        assert find_files(at(tmp_path / "*.md")).files == [tmp_path / "README.md"]
        assert find_files(at(tmp_path / "b.txt")).files == [tmp_path / "b.txt"]

    def test_only_text_is_text(self, tmp_path: Path) -> None:
        write(tmp_path, "README.md", "b.txt", "sub/c.md")
        assert len(find_files(at(tmp_path)).files) == 3

    @pytest.mark.parametrize(
        ("content", "beside"),
        [
            ('[{"text": "a"}]', ["LICENSE", "README.md", "b.md"]),
            ('{"text": "a"}\n{"text": "b"}\n', ["LICENSE", "README.md", "b.md"]),
            ('{\n  "name": "settings"\n}\n', ["LICENSE", "README.md"]),
        ],
    )
    def test_json_is_records_or_settings(self, tmp_path: Path, content: str, beside: list[str]) -> None:
        """A folder of Markdown often holds a package.json."""
        write(tmp_path, "package.json", content=content)
        write(tmp_path, "README.md", "b.md", "LICENSE.md")
        assert find_files(at(tmp_path)).beside == [name if name != "LICENSE" else "LICENSE.md" for name in beside]

    def test_a_saved_data_set_of_hugging_face(self, tmp_path: Path) -> None:
        write(tmp_path, "dataset_dict.json", "train/dataset_info.json", "train/state.json", "train/cache-1a.arrow")
        write(tmp_path, "train/data-00000-of-00001.arrow")
        found = find_files(at(tmp_path))
        assert found.files == [tmp_path / "train/data-00000-of-00001.arrow"]
        assert len(found.beside) == 4

    def test_of_what_was_downloaded(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
        write(tmp_path, "README.md", "logo.svg", "manifest.json")
        for files, read in ((["*"], 1), (["*.parquet", "*.md"], 2)):
            found = find_fetched(tmp_path, HubSource(name="mine", kind="hub", dataset="a/b", files=files))
            assert len(found.files) == read
            assert found.unread == {".svg": 1, **({".md": 1} if read == 1 else {})}

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text(json.dumps({"text": "a"}), encoding="utf-8")
        assert len(find_files(at(tmp_path)).files) == 1
