"""Web pages: their text is read if trafilatura is installed, and otherwise they are named."""

import gzip
import signal
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from parakeet.data.reading import web_pages
from parakeet.data.reading.kinds import PAGES, reads_pages
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.sources import find_files
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import FileSource

SENTENCES = [f"This is sentence {number} of a page that somebody wrote, naïve but long enough." for number in range(9)]
PAGE = (
    "<!DOCTYPE html><html><head><title>A page</title><style>p {color: red}</style></head><body>"
    "<nav><a href=/>Home</a><a href=/b>Other</a></nav><article><h1>A page</h1>"
    + "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)
    + "</article><script>alert(1)</script><footer>© nobody</footer></body></html>"
)
with_pages = pytest.mark.skipif(not reads_pages(), reason="trafilatura is not installed")


def texts(path: Path) -> list[str]:
    return [str(record.problem or record.value) for record in read_records(path)]


@with_pages
@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml", "a.html.gz"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n<!-- x -->\n", '<?xml version="1.0" encoding="utf-8"?>'])
def test_the_text_of_a_page_is_a_document(tmp_path: Path, name: str, start: str) -> None:
    content = (start + PAGE).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (text,) = texts(tmp_path / name)
    assert [line for line in text.splitlines() if line in SENTENCES] == SENTENCES
    assert "alert" not in text
    assert "color" not in text


@with_pages
def test_pages_are_text_beside_records_and_in_archives(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    source = FileSource(name="mine", path=str(tmp_path))
    assert find_files(source).files == [tmp_path / "a.html"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.html", "a.html")
    assert len(texts(tmp_path / "b.zip")) == 1
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert find_files(source).beside == ["a.html"]


@with_pages
@pytest.mark.parametrize("name", ["a.epub", "a.zip", "a.jsonl"])
def test_the_chapters_of_a_book_are_documents(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for member in ("OEBPS/1.xhtml", "OEBPS/2.xhtml"):
            archive.writestr(member, f'<?xml version="1.0"?>\n{PAGE}')
        archive.writestr("OEBPS/style.css", "p {color: red}")
    found = list(read_records(tmp_path / name))
    assert [record.member for record in found] == ["OEBPS/1.xhtml", "OEBPS/2.xhtml"]
    assert all(SENTENCES[0] in str(record.value) for record in found)


@with_pages
def test_a_page_that_takes_too_long_costs_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_pages, "MOST_SECONDS", 3.0)
    attributes = " ".join(f"a{number}=1" for number in range(100_000))
    (tmp_path / "a.html").write_text(f"<html><body><p {attributes}>Text</p></body></html>", encoding="utf-8")
    (tmp_path / "b.html").write_text(PAGE, encoding="utf-8")
    assert texts(tmp_path / "a.html") == ["page cannot be parsed: in 3 seconds"]
    assert SENTENCES[0] in texts(tmp_path / "b.html")[0]


@with_pages
def test_files_of_the_working_folder_and_ctrl_c_do_not_disturb_the_extractor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    extractor = web_pages.Extractor()
    assert SENTENCES[0] in str(extractor.text_of(PAGE.encode()))
    process = extractor._process
    assert process is not None
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert capfd.readouterr().err == ""
    assert extractor.text_of(PAGE.encode()) is None
    assert SENTENCES[0] in str(extractor.text_of(PAGE.encode()))


@with_pages
def test_a_very_long_page_and_one_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<html>" + b" " * web_pages.MAX_PAGE_BYTES)
    (tmp_path / "b.html").write_bytes(b"<html></html>")
    assert texts(tmp_path / "a.html")[0].startswith("page too long")
    assert [record.value for record in read_records(tmp_path / "b.html")] == [""]


@pytest.mark.skipif(reads_pages(), reason="trafilatura is installed")
@pytest.mark.parametrize("suffix", PAGES)
def test_without_it_pages_are_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text(PAGE, encoding="utf-8")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(tmp_path / f"a{suffix}", f"a{suffix}")
    assert find_files(FileSource(name="mine", path=str(tmp_path))).unread == {suffix: 1}
    unread: Counter[str] = Counter()
    assert list(read_records(tmp_path / "c.zip", unread=unread)) == []
    assert unread == {suffix: 1}
    with zipfile.ZipFile(tmp_path / "d.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.write(tmp_path / f"a{suffix}", f"a{suffix}")
    for name in (f"a{suffix}", "d.epub"):
        with pytest.raises(ParakeetError, match=r"pip install 'parakeet-lm\[html\]'"):
            texts(tmp_path / name)
