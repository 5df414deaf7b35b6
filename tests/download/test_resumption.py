"""What earlier transfers left: parts, sudden ends, full disks, two processes at once, the folders of older versions."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parakeet.errors import ParakeetError

from ..conftest import without_root_rights
from ..fault_server import FaultServer, wait_until
from .archives import BODY, NAME, archive, damaged
from .conftest import Download, Fetching

CUT = 1_200_000


def leave_part(server: FaultServer, download: Download, fault: str = "begins_then_refuses") -> Path:
    """What an interrupted download leaves. From then on the server sends everything."""
    assert "too many people" in download.refused(server.address(fault))
    (part,) = download.parts
    assert part.read_bytes() == BODY[:CUT]
    server.refuse_after = 99
    server.cut_bytes = len(server.body)
    return part


def test_a_part_is_continued_by_the_next_call(server: FaultServer, download: Download) -> None:
    leave_part(server, download)
    assert download(server.address("begins_then_refuses")) == BODY
    assert server.ranges("begins_then_refuses")[-1] == f"bytes={CUT}-"
    assert "continuing after 1.1 MiB" in download.said
    assert download.parts == []


def test_without_a_validator_a_part_is_continued_if_its_end_comes_again(
    server: FaultServer, download: Download
) -> None:
    server.version = ""
    leave_part(server, download)
    assert download(server.address("begins_then_refuses")) == BODY
    assert server.ranges("begins_then_refuses")[-1] == f"bytes={CUT - 65_536}-"


@pytest.mark.parametrize("what", ["etag", "size", "no ranges", "other bytes", "too long", "description", "no file"])
def test_a_part_of_another_file_is_dropped(
    server: FaultServer, download: Download, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.version = "" if what == "other bytes" else server.version
    part = leave_part(server, download)
    fault = "begins_then_refuses"
    if what == "etag":
        server.version = '"two"'
    elif what == "size":
        server.body = archive(megabytes=3.5)
        server.cut_bytes = len(server.body)
    elif what == "no ranges":
        handler: Any = server.RequestHandlerClass
        monkeypatch.setattr(handler, "play_begins_then_refuses", handler.play_short)
    elif what == "other bytes":
        part.write_bytes(archive(seed=4)[:CUT])
    elif what == "too long":
        part.write_bytes(BODY + b"more")
    elif what == "description":
        part.with_suffix(".json").write_text("[")
    elif what == "no file":
        part.with_suffix(".json").unlink()
    assert download(server.address(fault)) == server.body
    assert "Starting again from the beginning" in download.said


def test_a_part_that_went_bad_in_its_middle_costs_one_more_transfer(server: FaultServer, fetching: Fetching) -> None:
    mirror = server.address("begins_then_refuses")
    fetching.refused(mirror)
    (part,) = fetching.parts
    part.write_bytes(BODY[:700_000] + bytes(CUT - 700_000))
    server.refuse_after = 99
    server.cut_bytes = len(BODY)
    fetching(mirror)
    assert fetching.file.read_bytes() == BODY
    assert "put together from several transfers. Starting again" in fetching.said.getvalue()


def test_a_part_that_is_whole_already_is_not_asked_for_again(server: FaultServer, download: Download) -> None:
    leave_part(server, download).write_bytes(BODY)
    asked = len(server.requests)
    assert download(server.address("begins_then_refuses")) == BODY
    assert len(server.requests) == asked


def test_parts_of_other_mirrors_are_left_alone_and_go_when_the_file_is_there(
    server: FaultServer, fetching: Fetching
) -> None:
    fetching.refused(server.address("begins_then_refuses"))
    (part,) = fetching.parts
    beside = fetching.file.with_name(f"{NAME}ABCDEFGH.part")
    beside.write_bytes(b"of somebody else")
    fetching.refused(server.address("short"))
    assert part in fetching.parts
    fetching(server.address("cut"))
    assert fetching.parts == []
    assert beside.read_bytes() == b"of somebody else"


def test_what_was_put_there_meanwhile_is_not_written_over(server: FaultServer, fetching: Fetching) -> None:
    with ThreadPoolExecutor(1) as pool:
        path = pool.submit(fetching, server.address("held"))
        wait_until(lambda: bool(fetching.parts))
        fetching.file.write_text("mine")
        server.released.set()
        with pytest.raises(ParakeetError, match="was put there while"):
            path.result()
    assert fetching.file.read_text() == "mine"


# What Parakeet left at commit 1eac929, where gdown transferred files


@pytest.mark.parametrize("version", ['"one"', ""])
def test_a_part_of_gdowns_is_continued(server: FaultServer, download: Download, version: str) -> None:
    server.version = version
    folder = download.earlier_folder(server.address("whole"))
    (folder / "fileABCDEFGH.part").write_bytes(BODY[:CUT])
    (folder / "offer.json").write_text(json.dumps({"total": len(BODY), "validator": version or None}))
    assert download(server.address("whole")) == BODY
    assert server.ranges("whole") == [f"bytes={CUT if version else CUT - 65_536}-"]
    assert not (download.file.parent / ".download").exists()


def test_a_whole_file_of_gdowns_is_checked_and_used(server: FaultServer, download: Download) -> None:
    folder = download.earlier_folder(server.address("whole"))
    (folder / "file").write_bytes(BODY)
    (folder / "file").chmod(0o600)
    (folder / "offer.json").write_text(json.dumps({"total": len(BODY), "validator": '"one"'}))
    assert download(server.address("whole")) == BODY
    assert server.requests == []
    assert download.file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("what", ["etag", "no description", "two parts"])
def test_a_part_of_gdowns_that_proves_nothing_is_dropped(server: FaultServer, download: Download, what: str) -> None:
    folder = download.earlier_folder(server.address("whole"))
    (folder / "fileABCDEFGH.part").write_bytes(BODY[:CUT])
    if what == "etag":
        (folder / "offer.json").write_text(json.dumps({"total": len(BODY), "validator": '"zero"'}))
    elif what == "two parts":
        (folder / "offer.json").write_text(json.dumps({"total": len(BODY), "validator": '"one"'}))
        (folder / "fileIJKLMNOP.part").write_bytes(BODY[:CUT])
    assert download(server.address("whole")) == BODY
    assert download.said.count("Starting again from the beginning") == 1
    assert not (download.file.parent / ".download").exists()


def test_a_whole_but_bad_file_of_gdowns_is_downloaded_again(server: FaultServer, fetching: Fetching) -> None:
    folder = Download("original", fetching.root).earlier_folder(server.address("whole"))
    (folder / "file").write_bytes(damaged(BODY))
    (folder / "offer.json").write_text(json.dumps({"total": len(BODY), "validator": '"one"'}))
    fetching(server.address("whole"))
    assert fetching.file.read_bytes() == BODY


# Sudden ends, full disks, two at once: in processes of their own

ORIGINAL_SCRIPT = """
    from parakeet.download.original import obtain_original
    from parakeet.recipe import OriginalCheckpoint

    settings = OriginalCheckpoint(file_name="small-c64-d32_v320_h2_l3.pth", drive_id=None, mirrors=[address])
    def run():
        obtain_original(Path(root), settings, Progress(), RetryPolicy(backoff=0.01))
"""
SOURCE_SCRIPT = """
    from parakeet.artifact import explain_os_error
    from parakeet.download.sources import fetch_source
    from parakeet.recipe_sources import DownloadSource

    files = [{"url": address, "file_name": "small-c64-d32_v320_h2_l3.pth"}]
    def run():
        try:
            Path(root).mkdir(exist_ok=True)
            source = DownloadSource(kind="download", name="set-1.0", files=files)
            fetch_source(source, 1.0, Path(root), Progress(), RetryPolicy(backoff=0.01))
        except OSError as error:
            raise explain_os_error(error, "fetching") from None
"""
SCRIPT = """
    import resource, sys
    from pathlib import Path
    from parakeet.download.transfer import RetryPolicy
    from parakeet.errors import ParakeetError
    from parakeet.progress import Progress

    root, address, limit = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    {}
    try:
        run()
    except ParakeetError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start(download: Download, address: str, limit: int = 0, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    run = textwrap.dedent(ORIGINAL_SCRIPT if download.is_original else SOURCE_SCRIPT)
    script = textwrap.dedent(SCRIPT).format(run)
    command = [*prefix, sys.executable, "-c", script, str(download.root), address, str(limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_transfer_that_was_ended_is_continued(
    server: FaultServer, download: Download, signal_number: signal.Signals
) -> None:
    process = start(download, server.address("held"))
    wait_until(lambda: any(part.stat().st_size >= 1_000_000 for part in download.parts), process)
    process.send_signal(signal_number)
    _, said = process.communicate()
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    assert said == ""
    assert not download.file.exists()
    have = download.parts[0].stat().st_size
    server.released.set()
    begun = len(server.requests)
    assert download(server.address("held")) == BODY
    assert server.requests[begun:] == [("held", f"bytes={have}-")]


def test_a_full_disk_is_named_and_the_part_kept(server: FaultServer, download: Download) -> None:
    process = start(download, server.address("whole"), limit=2_000_000)
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.startswith("File too large while fetching")
    assert not download.file.exists()
    assert download(server.address("whole")) == BODY
    assert server.ranges("whole") == ["bytes=2000000-"]


def test_too_little_space_is_reported_before_the_transfer(
    server: FaultServer, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(ParakeetError, match=r"Too little disk space: .* MiB are needed"):
        download(server.address("whole"))
    assert download.parts == []


def test_a_folder_that_cannot_be_written_to(server: FaultServer, download: Download) -> None:
    download.root.mkdir()
    download.root.chmod(0o555)
    process = start(download, server.address("whole"), prefix=tuple(without_root_rights()))
    _, said = process.communicate()
    download.root.chmod(0o755)
    assert process.returncode == 1
    assert said.startswith("Permission denied")
    assert "Traceback" not in said


def test_of_two_at_once_one_fetches_and_the_other_waits(server: FaultServer, tmp_path: Path) -> None:
    download = Download("original", tmp_path / "home")
    first = start(download, server.address("held"))
    wait_until(lambda: bool(server.requests), first)
    second = start(download, server.address("held"))
    assert second.stderr is not None
    assert "is being fetched by process" in second.stderr.readline()
    server.released.set()
    assert [process.communicate()[1] for process in (first, second)] == ["", ""]
    assert [first.returncode, second.returncode] == [0, 0]
    assert download.file.read_bytes() == BODY
    assert len(server.requests) == 1


def test_two_threads_of_one_process(server: FaultServer, fetching: Fetching) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = [pool.submit(fetching, server.address("held")) for _ in range(2)]
        wait_until(lambda: "is being fetched by process" in fetching.said.getvalue() and bool(server.requests))
        server.released.set()
        assert [path.result() for path in paths] == [fetching.file] * 2
    assert len(server.requests) == 1
