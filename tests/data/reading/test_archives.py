import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.archives import MOST_DIRECTORY_BYTES
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import Record
from parakeet.errors import ParakeetError

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": lambda content: content,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.zst": zstandard.ZstdCompressor().compress,
    ".tar.bz2": bz2.compress,
    ".txz": lzma.compress,
}
ARCHIVES = (".zip", *PACK)
Files = Mapping[str, bytes]


def packed(files: Files, suffix: str) -> bytes:
    target = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return PACK[suffix](target.getvalue())


def write(folder: Path, files: Files, suffix: str) -> Path:
    path = folder / f"set{suffix}"
    path.write_bytes(packed(files, suffix))
    return path


def read(path: Path) -> list[tuple[str, int, object]]:
    return [(record.member, record.row, record.value) for record in read_records(path)]


def refused(path: Path) -> str:
    with pytest.raises(ParakeetError) as error:
        list(read_records(path))
    return str(error.value)


def parquet(texts: list[str]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), target)
    return target.getvalue()


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_members_of_known_kinds_are_read_in_the_archives_order(tmp_path: Path, suffix: str) -> None:
    files = {
        "./b/talk.jsonl": b'{"text": "one"}\n\n{"text": "two"}\n',
        "a.txt": "\ufeffnaïve\n".encode(),
        "notes.pdf": b"%PDF",
        "b/.hidden.txt": b"not this",
        "__MACOSX/a.txt": b"nor this",
        "c.json.gz": gzip.compress(b'[{"text": "three"}]'),
        "d.parquet": parquet(["four", "five"]),
        "e.txt.zst": zstandard.ZstdCompressor().compress(b"six"),
    }
    assert read(write(tmp_path, files, suffix)) == [
        ("b/talk.jsonl", 1, {"text": "one"}),
        ("b/talk.jsonl", 3, {"text": "two"}),
        ("c.json.gz", 1, {"text": "three"}),
        ("d.parquet", 1, {"text": "four"}),
        ("d.parquet", 2, {"text": "five"}),
    ]


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_a_member_that_leads_out_of_the_archive_is_refused_by_name(tmp_path: Path, suffix: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in", {"a.txt": b"before", name: b"evil", "b.txt": b"after"}, suffix)
    found = list(read_records(path))
    assert [record.value for record in found] == ["before", None, "after"]
    problem = found[1].problem
    assert problem is not None
    assert (found[1].member, found[1].row, problem.reason) == (name, 0, "refused archive member")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert [str(record.problem) for record in read_records(tmp_path / "a.tar")] == [
        "refused archive member: a link, a device or a sparse file"
    ]


def test_a_link_in_a_zip_and_an_archive_in_an_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("inner.zip", packed({"a.txt": b"a"}, ".zip"))
        archive.mkdir("folder")
    assert [str(record.problem) for record in read_records(tmp_path / "a.zip")] == [
        "refused archive member: a link, a device or a sparse file",
        "refused archive member: an archive inside an archive; unpack the outer one",
    ]


def test_an_encrypted_zip_is_refused_with_its_member(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.txt": b"secret"}, ".zip")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "set.zip: a.txt is encrypted. Pack it again" in refused(path)


def test_packing_that_cannot_be_bounded_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", "text")
    assert "a.txt is compressed by an unsupported method. Pack it again with deflate." in refused(tmp_path / "a.zip")


class TestBombs:
    """A thousand times their size; 64 MiB and 200 times the size are let pass."""

    SIZE = 90 << 20
    GZIPPED = gzip.compress(b" " * SIZE)

    @pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet"])
    def test_a_gzip_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"a.{kind}.gz"
        path.write_bytes(self.GZIPPED)
        assert f"a.{kind}.gz unpacks to more than 200 times its size" in refused(path)

    @pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.zst", ".tar.bz2", ".txz"])
    def test_a_member(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path, {"a.txt": b" " * self.SIZE}, suffix)
        assert f"set{suffix} unpacks to more than 200 times its size" in refused(path)

    def test_many_small_ones(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(10):
                archive.writestr(f"{number}.txt", b" " * (self.SIZE // 10))
        assert "a.zip unpacks to more than" in refused(tmp_path / "a.zip")

    @pytest.mark.parametrize("suffix", [".zip", ".tar"])
    def test_one_inside_a_member(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path, {"a.jsonl.gz": self.GZIPPED}, suffix)
        assert f"set{suffix}/a.jsonl.gz unpacks to more than" in refused(path)

    def test_a_sparse_member(self, tmp_path: Path) -> None:
        """8 TB of holes in two blocks, in GNU's form."""
        info = tarfile.TarInfo("a.txt")
        info.type = tarfile.GNUTYPE_SPARSE
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[483:495] = b"100000000000"
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
        assert [record.problem is not None for record in read_records(tmp_path / "a.tar")] == [True]


class TestHeaders:
    """What is read at once, before any member, is bounded too."""

    def test_a_zip_of_very_many_members(self, tmp_path: Path) -> None:
        entry = packed({"a": b""}, ".zip")
        begin = entry.index(b"PK\x01\x02")
        one = entry[begin : entry.index(b"PK\x05\x06")]
        assert len(one) == 46 + len("a")
        many = one * (MOST_DIRECTORY_BYTES // len(one) + 1)
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(many), 0, 0)
        (tmp_path / "a.zip").write_bytes(many + end)
        assert "a.zip has too many members: their list alone is 32.0 MiB" in refused(tmp_path / "a.zip")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_tar_with_a_huge_header(self, tmp_path: Path, kind: bytes) -> None:
        info = tarfile.TarInfo("a.txt")
        info.type, info.size = kind, 3 << 30
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(100 << 10))
        assert "a header of 3,221,225,472 bytes" in refused(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_an_archive_that_breaks_off_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = write(tmp_path, {f"{number}.txt": os.urandom(3000).hex().encode() for number in range(5)}, suffix)
    content = path.read_bytes()
    # Behind the end of a tar's last member there are only zeros.
    end = len(content) - (9000 if suffix == ".tar" else 0)
    path.write_bytes(content[: int(keep * end)])
    assert "cannot be read beyond record" in refused(path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_tar_without_its_end_or_with_a_damaged_header_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = packed({"a.txt": b"a" * 512, "b.txt": b"b" * 512}, ".tar")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](whole[:1024]))
    assert "beyond record 1: " in refused(path)
    path.write_bytes(PACK[suffix](whole[:1024] + b"junk" * 128 + whole[1536:]))
    assert "beyond record 1: " in refused(path)


@given(
    suffix=st.sampled_from([".zip", ".tar"]),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damage_is_records_or_one_message(suffix: str, flips: list[tuple[int, int]]) -> None:
    content = bytearray(packed({"a.jsonl": b'{"a": 1}\n' * 20, "b/c.txt": b"text"}, suffix))
    for position, value in flips:
        content[position % len(content)] = value
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            found = list(read_records(path))
        except ParakeetError as error:
            assert path.name in str(error)  # noqa: PT017
        else:
            assert all(isinstance(record, Record) for record in found)
