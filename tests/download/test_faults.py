"""Every fault of a server is survived, or named with no file left behind."""

import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from parakeet.artifact import sha256_of

from ..fault_server import FaultServer, rewriting
from .archives import BODY, NAME, archive, damaged
from .conftest import IMPATIENT, Download, Fetching


@pytest.mark.parametrize(
    "fault", ["whole", "cut", "reset", "flaky", "redirect", "gzip", "disposition", "no_length", "cut_without_range"]
)
def test_a_whole_file_arrives_whatever_happens_on_the_way(server: FaultServer, download: Download, fault: str) -> None:
    assert download(server.address(fault), n_bytes=len(BODY)) == BODY
    assert stat.S_IMODE(download.file.stat().st_mode) == 0o644
    rest = {".checked.json"} if download.is_original else {"work"}
    assert set(os.listdir(download.file.parent)) == {NAME} | rest
    assert not (download.root.parent / "evil.pth").exists()
    assert download.parts == []


def test_a_good_server_is_asked_once(server: FaultServer, download: Download) -> None:
    download(server.address("whole"))
    assert server.requests == [("whole", "")]


def test_a_cut_transfer_continues_where_it_stopped(server: FaultServer, download: Download) -> None:
    download(server.address("cut"))
    assert server.requests == [("cut", ""), ("cut", "bytes=1200000-"), ("cut", "bytes=2400000-")]
    assert "did not send all that it had announced. Trying again" in download.said


def test_without_a_validator_the_last_bytes_are_compared(server: FaultServer, download: Download) -> None:
    server.version = ""
    assert download(server.address("cut")) == BODY
    assert server.ranges("cut")[0] == f"bytes={1_200_000 - 65_536}-"


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
        ("status_429", "it was asked too often (HTTP status 429 Too Many Requests) (asked 3 times)"),
        ("status_500", "it fails (HTTP status 500 Internal Server Error) (asked 3 times)"),
        ("status_503", "HTTP status 503 Service Unavailable) (asked 3 times)"),
        ("status_599", "it fails (HTTP status 599)"),
        ("redirect_loop", "redirects in a circle"),
        ("redirect_to_file", "is malformed or not http(s)"),
        ("gzip_garbage", "cannot be decompressed"),
    ],
)
def test_a_source_that_cannot_give_the_file(server: FaultServer, download: Download, fault: str, words: str) -> None:
    message = download.refused(server.address(fault))
    assert f"{server.address(fault)}: " in message
    assert words in message
    assert download.parts == []
    if download.is_original:
        assert f"save it as {download.file}" in message


@pytest.mark.parametrize(("fault", "words"), [("length_too_small", "a cut-off archive"), ("empty", "it is empty")])
def test_a_checkpoint_that_is_too_short(server: FaultServer, fetching: Fetching, fault: str, words: str) -> None:
    assert words in fetching.refused(server.address(fault))
    assert fetching.parts == []


@pytest.mark.parametrize(
    ("fault", "words"), [("trickle", "less than 512 KiB in 0.3 s"), ("silent", "does not answer in time")]
)
def test_a_server_that_keeps_one_waiting(server: FaultServer, download: Download, fault: str, words: str) -> None:
    download.policy = IMPATIENT if fault == "silent" else replace(IMPATIENT, read_timeout=60.0)
    assert words in download.refused(server.address(fault))
    assert download.parts == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("short", "it did not send all that it had announced (asked 3 times)"),
        ("length_too_large", "it did not send all that it had announced (asked 3 times)"),
        ("wrong_range", "(asked 3 times)"),
    ],
)
def test_a_body_that_never_comes_whole(server: FaultServer, download: Download, fault: str, words: str) -> None:
    assert words in download.refused(server.address(fault))


def test_a_wrong_size_is_refused_before_the_transfer(server: FaultServer, download: Download) -> None:
    assert f"it has {len(BODY):,} bytes, expected 7" in download.refused(server.address("whole"), n_bytes=7)
    assert download.parts == []
    assert "expected 3,500,000" in download.refused(server.address("no_length"), n_bytes=3_500_000)


def test_a_hash_that_fits_is_accepted_and_one_that_does_not_is_refused(
    server: FaultServer, download: Download, tmp_path: Path
) -> None:
    assert f"expected {'0' * 64}" in download.refused(server.address("whole"), sha256="0" * 64)
    assert download.parts == []
    (tmp_path / "copy.pth").write_bytes(BODY)
    assert download(server.address("whole"), sha256=sha256_of(tmp_path / "copy.pth")) == BODY


def test_a_server_that_never_ends_is_stopped(
    server: FaultServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parakeet.download.original.MAX_BYTES", 8_000_000)
    assert "it sends more than 8,000,000 bytes" in fetching.refused(server.address("endless"))
    assert fetching.parts == []


def test_nobody_is_there(download: Download) -> None:
    assert "refuses the connection" in download.refused("http://127.0.0.1:9/x.pth")
    assert "name cannot be found" in download.refused("http://nowhere.invalid/x.pth")


def test_a_malformed_address(fetching: Fetching) -> None:
    assert "is malformed" in fetching.refused("http://[bad/x.pth")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x1f\x8b\x08\0" + bytes(600), "a gzip file: unpack it first"),
        (damaged(BODY), "a damaged archive (Bad CRC-32"),
        (archive(pickled=b"\x80\x02cos\nsystem\n."), "it names os.system in its pickle"),
    ],
)
def test_a_checkpoint_is_checked_before_it_is_used(
    server: FaultServer, fetching: Fetching, body: bytes, words: str
) -> None:
    """tests/test_torch_archive.py has all the faults."""
    server.body = body
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
    server: FaultServer, download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(BODY, certificate(tmp_path)) as safe:
        assert "TLS certificate" in download.refused(safe.address("whole"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        safe.elsewhere = server.address("whole")
        assert "from https to http" in download.refused(safe.address("redirect_elsewhere"))
        assert download(safe.address("whole")) == BODY


# Google Drive: the same code, with the requests led to the local server


def lead_drive(server: FaultServer, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def address(url: str) -> str | None:
        return f"{server.address(fault)}?{url.partition('?')[2]}" if "google" in url else None

    monkeypatch.setattr(requests.Session, "get", rewriting(address, requests.Session.get))


@pytest.mark.parametrize("link", ["https://drive.google.com/file/d/abcdefghijk/view", ""])
def test_drive_gives_the_file_behind_its_virus_scan_page(
    server: FaultServer, download: Download, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    lead_drive(server, "drive", monkeypatch)
    assert (download(link) if link else download.from_drive()) == BODY


def test_drive_is_continued_through_its_virus_scan_page(
    server: FaultServer, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_drive(server, "drive_cut", monkeypatch)
    assert download.from_drive() == BODY
    assert len(set(server.ranges("drive_cut"))) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("quota", "too many people have downloaded this file"),
        ("permission", "not shared with everybody"),
        ("sign_in", "not shared with everybody"),
        ("virus_scan", "virus-scan page"),
        ("portal", "Welcome to the hotel"),
        ("status_404", "it has no such file"),
    ],
)
def test_drive_refuses(
    server: FaultServer, download: Download, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    lead_drive(server, fault, monkeypatch)
    message = download.refused("https://drive.google.com/uc?id=abcdefghijk")
    assert "Google Drive: " in message
    assert words in message
