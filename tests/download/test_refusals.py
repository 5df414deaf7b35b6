"""Every fault of a server is named, and leaves no file behind."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ..fault_server import FaultServer
from .archives import BODY, damaged
from .conftest import QUICK, Fetching


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("quota", "Google Drive says that too many people have downloaded this file"),
        ("virus_scan", "virus-scan page"),
        ("sign_in", "asks for a sign-in"),
        ("permission", "refuses access"),
        ("portal", "a web page titled “Welcome to the hotel”"),
        ("status_403", "it refuses access (HTTP status 403 Forbidden)"),
        ("status_404", "it has no such file (HTTP status 404 Not Found)"),
        ("status_429", "it was asked too often (HTTP status 429 Too Many Requests) (asked 4 times)"),
        ("status_500", "it fails (HTTP status 500 Internal Server Error) (asked 4 times)"),
        ("status_599", "it fails (HTTP status 599)"),
        ("redirect_loop", "redirects in a circle"),
        ("redirect_to_file", "neither http nor https"),
        ("gzip_garbage", "cannot be decompressed"),
        ("length_too_small", "a cut-off archive"),
        ("empty", "it is empty"),
    ],
)
def test_a_source_that_cannot_give_the_file(server: FaultServer, fetching: Fetching, fault: str, words: str) -> None:
    message = fetching.refused(server.address(fault))
    assert f"{server.address(fault)}: " in message
    assert words in message
    assert f"save it as {fetching.file}" in message
    assert fetching.parts == []


@pytest.mark.parametrize(
    ("fault", "words"), [("trickle", "less than 512 KiB in 1 s"), ("silent", "does not answer in time")]
)
def test_a_server_that_keeps_one_waiting(server: FaultServer, fetching: Fetching, fault: str, words: str) -> None:
    fetching.patience = replace(QUICK, tries=1)
    assert words in fetching.refused(server.address(fault))
    assert fetching.parts == []


@pytest.mark.parametrize("fault", ["short", "length_too_large", "wrong_range"])
def test_a_body_that_never_comes_whole(server: FaultServer, fetching: Fetching, fault: str) -> None:
    assert "(asked 4 times)" in fetching.refused(server.address(fault))


def test_a_wrong_size_is_refused_before_the_transfer(server: FaultServer, fetching: Fetching) -> None:
    assert f"it has {len(BODY):,} bytes, expected 7" in fetching.refused(server.address("whole"), n_bytes=7)
    assert server.ranges("whole") == []
    assert "expected 3,500,000" in fetching.refused(server.address("no_length"), n_bytes=3_500_000)


def test_a_server_that_never_ends_is_stopped(
    server: FaultServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parakeet.download.original.MAX_BYTES", 8_000_000)
    assert "it sends more than 8,000,000 bytes" in fetching.refused(server.address("endless"))
    assert fetching.parts == []


def test_nobody_is_there(fetching: Fetching) -> None:
    assert "refuses the connection" in fetching.refused("http://127.0.0.1:9/x.pth")
    assert "name cannot be found" in fetching.refused("http://nowhere.invalid/x.pth")
    assert "cannot be understood (Invalid IPv6 URL)" in fetching.refused("http://[bad/x.pth")


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began a file before version 1.6."""


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (LEGACY, "a bare pickle, as torch wrote before version 1.6"),
        (b"\0" * 257 + b"ustar\x0000", "a tar archive"),
        (b"\x10\0\0\0\0\0\0\0{}", "a safetensors file"),
        (b"\x1f\x8b\x08\0", "a gzip file: unpack it first"),
        (b"\0" * 600, "nothing but zeros"),
        (b"hello there", "it begins with 68 65 6c 6c 6f 20 74 68"),
    ],
)
def test_another_kind_of_file_is_named(server: FaultServer, fetching: Fetching, head: bytes, words: str) -> None:
    server.body = head + bytes(600)
    assert words in fetching.refused(server.address("whole"))
    assert fetching.parts == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("flipped bit", "a damaged archive (Bad CRC-32"),
        ("cut", "a cut-off archive"),
        ("two halves", "a damaged archive (Bad CRC-32"),
        ("two files", "a damaged archive, or made of two"),
        ("no pickle", "a ZIP archive, but none that torch.save wrote"),
        ("encrypted", "compressed or encrypted, which torch.save never writes"),
        ("compressed", "compressed or encrypted, which torch.save never writes"),
        ("a program", "it names os.system in its pickle, which no state dict of plain tensors needs"),
        ("something behind it", "has more bytes after the end of its archive"),
    ],
)
def test_a_damaged_archive_is_refused(server: FaultServer, fetching: Fetching, kind: str, words: str) -> None:
    server.body = damaged(kind)
    assert words in fetching.refused(server.address("whole"))
    assert fetching.parts == []


def certificate(folder: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    path = folder / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *extension], check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "cert.pem").read_text())
    return path


def test_https_is_not_left_for_http_and_unknown_certificates_are_refused(
    server: FaultServer, fetching: Fetching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(BODY, certificate(tmp_path)) as safe:
        assert "TLS certificate" in fetching.refused(safe.address("whole"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        safe.elsewhere = server.address("whole")
        assert "from https to http" in fetching.refused(safe.address("redirect_elsewhere"))
        fetching(safe.address("whole"))
