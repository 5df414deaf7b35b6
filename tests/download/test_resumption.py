"""What earlier transfers left: parts, sudden ends, full disks, two processes at once."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import without_root_rights
from ..fault_server import FaultServer
from .archives import BODY, NAME, archive, damaged
from .conftest import Fetching


def leave_part(server: FaultServer, fetching: Fetching) -> Path:
    """What an interrupted transfer of `short`'s body leaves."""
    fetching.refused(server.address("short"))
    (part,) = (path for path in fetching.parts if path.suffix == ".part")
    assert part.stat().st_size == 2 << 19
    return part


def test_a_part_is_gone_on_with_by_the_next_call(server: FaultServer, fetching: Fetching) -> None:
    server.cut_bytes = 2_000_000
    message = fetching.refused(server.address("begins_then_refuses"))
    assert "too many people" in message
    assert [path.stat().st_size for path in fetching.parts if path.suffix == ".part"] == [3 << 19]
    server.refuse_after = 99
    fetching(server.address("begins_then_refuses"))
    assert server.ranges("begins_then_refuses")[-1] == f"bytes={3 << 19}-"
    assert fetching.file.read_bytes() == BODY


@pytest.mark.parametrize("what", ["etag", "size", "first bytes", "part", "too long", "record", "twice"])
def test_a_part_of_another_file_is_dropped(server: FaultServer, fetching: Fetching, what: str) -> None:
    part = leave_part(server, fetching)
    said = fetching.said.tell()
    if what == "etag":
        server.version = '"two"'
    elif what == "size":
        server.body = archive(megabytes=3.5)
    elif what == "first bytes":
        server.body = archive(seed=3)
    elif what == "part":
        part.write_bytes(archive(seed=4)[: part.stat().st_size])
    elif what == "too long":
        part.write_bytes(BODY + b"more")
    elif what == "record":
        (part.parent / "offer.json").write_text("[")
    elif what == "twice":
        shutil.copy(part, part.with_name("fileABCDEFGH.part"))
    server.cut_bytes = len(server.body)
    fetching(server.address("short"))
    assert fetching.file.read_bytes() == server.body
    assert what == "twice" or "Starting again from the beginning" in fetching.said.getvalue()[said:]


def test_a_part_that_went_bad_in_its_middle_costs_one_more_transfer(server: FaultServer, fetching: Fetching) -> None:
    fetching.refused(server.address("cut"), sha256="0" * 64)
    server.cut_bytes = 1_200_000
    mirror = server.address("begins_then_refuses")
    fetching.refused(mirror)
    (part,) = (path for path in fetching.parts if path.suffix == ".part")
    content = bytearray(part.read_bytes())
    content[700_000:] = bytes(len(content) - 700_000)
    part.write_bytes(content)
    server.refuse_after = 99
    server.cut_bytes = len(BODY)
    fetching(mirror)
    assert fetching.file.read_bytes() == BODY
    assert "put together from several transfers. Starting again" in fetching.said.getvalue()


def test_a_part_that_is_whole_already_is_not_asked_for_again(server: FaultServer, fetching: Fetching) -> None:
    part = leave_part(server, fetching)
    part.write_bytes(BODY)
    fetching(server.address("short"))
    assert fetching.file.read_bytes() == BODY


@pytest.mark.parametrize("content", [BODY, damaged("flipped bit")])
def test_a_run_that_ended_before_the_checks_is_gone_on_with(
    server: FaultServer, fetching: Fetching, content: bytes
) -> None:
    part = leave_part(server, fetching)
    part.unlink()
    (part.parent / "file").write_bytes(content)
    server.cut_bytes = len(BODY)
    before = len(server.requests)
    fetching(server.address("short"))
    assert fetching.file.read_bytes() == BODY
    assert (len(server.requests) == before) == (content == BODY)


def test_parts_of_other_sources_are_left_alone_and_go_when_the_file_is_there(
    server: FaultServer, fetching: Fetching
) -> None:
    part = leave_part(server, fetching)
    server.body = archive(seed=5)
    beside = fetching.file.with_name(f"{NAME}ABCDEFGH.part")
    beside.write_bytes(b"of somebody else")
    fetching(server.address("cut"))
    assert fetching.file.read_bytes() == server.body
    assert not part.exists()
    assert beside.read_bytes() == b"of somebody else"


# Sudden ends, full disks, two at once: in processes of their own

SCRIPT = """
    import resource, sys
    from pathlib import Path
    from parakeet.download.original import obtain_original
    from parakeet.download.transfer import Patience
    from parakeet.errors import ParakeetError
    from parakeet.progress import Progress
    from parakeet.recipe import OriginalCheckpoint

    root, address, limit = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    settings = OriginalCheckpoint(file_name="small-c64-d32_v320_h2_l3.pth", drive_id=None, mirrors=[address])
    try:
        obtain_original(Path(root), settings, Progress(), Patience(backoff=0.01))
    except ParakeetError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start(fetching: Fetching, address: str, limit: int = 0, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(SCRIPT), str(fetching.root), address, str(limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_part(fetching: Fetching) -> None:
    deadline = time.monotonic() + 20
    while not any(path.suffix == ".part" and path.stat().st_size >= 1 << 19 for path in fetching.parts):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_transfer_that_was_ended_goes_on(server: FaultServer, fetching: Fetching, signal_number: int) -> None:
    process = start(fetching, server.address("slow"))
    wait_for_part(fetching)
    process.send_signal(signal_number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    assert said == ""
    assert not fetching.file.exists()
    begun = len(server.requests)
    fetching(server.address("slow"))
    assert fetching.file.read_bytes() == BODY
    assert any(wanted for _, wanted in server.requests[begun:])


def test_a_full_disk_is_named_and_the_part_kept(server: FaultServer, fetching: Fetching) -> None:
    process = start(fetching, server.address("whole"), limit=2_000_000)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.startswith("File too large while fetching")
    assert not fetching.file.exists()
    fetching(server.address("whole"))
    assert server.ranges("whole")


def test_too_little_space_is_said_before_the_transfer(
    server: FaultServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    assert "Too little disk space: 0.1 GB are needed" in fetching.refused(server.address("whole"))


def test_a_folder_that_cannot_be_written_to(server: FaultServer, fetching: Fetching) -> None:
    fetching.root.mkdir()
    fetching.root.chmod(0o555)
    process = start(fetching, server.address("whole"), prefix=tuple(without_root_rights()))
    _, said = process.communicate(timeout=20)
    fetching.root.chmod(0o755)
    assert process.returncode == 1
    assert said.startswith("Permission denied")
    assert "Traceback" not in said


def test_of_two_at_once_one_fetches_and_the_other_waits(server: FaultServer, fetching: Fetching) -> None:
    both = [start(fetching, server.address("slow")) for _ in range(2)]
    said = "".join(process.communicate(timeout=30)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("is being fetched by process") == 1
    assert fetching.file.read_bytes() == BODY
    assert len(server.requests) == 3  # a look, the headers, the transfer


def test_two_threads_of_one_process(server: FaultServer, fetching: Fetching) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(fetching, [server.address("slow")] * 2))) == 1
    assert len(server.requests) == 3
