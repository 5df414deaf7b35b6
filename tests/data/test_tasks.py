"""run_tasks: every task runs once, on one worker or several, with Slurm or Ray; and what happens when one fails."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parakeet.data.tasks import run_tasks, worker_count
from parakeet.errors import ParakeetError
from parakeet.recipe import Executor

from .some_steps import Square

ROOT = Path(__file__).parents[2]


def executor(**settings: Any) -> Executor:
    return Executor.model_validate({"workers": 1, **settings})


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def runs(folder: Path) -> dict[int, int]:
    """How often each task ran."""
    return {int(path.name): len(path.read_text().splitlines()) for path in (folder / "runs").iterdir()}


EXPECTED = {f"{rank}.txt": str(rank * rank) for rank in range(5)}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_and_not_again(tmp_path: Path, workers: int) -> None:
    for _ in range(2):
        run_tasks([Square(tmp_path)], 5, executor(workers=workers), tmp_path / "logs")
    assert results(tmp_path) == EXPECTED
    assert runs(tmp_path) == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("message", ParakeetError, "Task 3 met a broken record in row 7."),
        ("disk", OSError, "No space left on device"),
        ("bug", ZeroDivisionError, "a bug"),
    ],
)
def test_a_fault_is_raised_as_the_task_raised_it_and_the_rest_is_kept(
    tmp_path: Path, workers: int, fault: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        run_tasks([Square(tmp_path, {3: fault})], 5, executor(workers=workers), tmp_path / "logs")
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "shard.arrow")
    before = runs(tmp_path)
    finished = {int(path.name) for path in (tmp_path / "logs" / "completions").iterdir()}
    assert 3 not in finished
    (tmp_path / "repaired").touch()
    run_tasks([Square(tmp_path, {3: fault})], 5, executor(workers=workers), tmp_path / "logs")
    assert results(tmp_path) == EXPECTED
    assert {rank: number for rank, number in runs(tmp_path).items() if rank in finished} == {
        rank: number for rank, number in before.items() if rank in finished
    }


def test_a_killed_worker_is_noticed(tmp_path: Path) -> None:
    """multiprocessing's pool would wait for its task forever."""
    with pytest.raises(ParakeetError, match=r"worker process was killed.*executor\.workers"):
        run_tasks([Square(tmp_path, {1: "killed"})], 5, executor(workers=2), tmp_path / "logs")
    (tmp_path / "repaired").touch()
    run_tasks([Square(tmp_path, {1: "killed"})], 5, executor(workers=2), tmp_path / "logs")
    assert results(tmp_path) == EXPECTED


SCRIPT = """
import sys
from pathlib import Path
from parakeet.data.tasks import run_tasks
from parakeet.recipe import Executor
from tests.data.some_steps import Square

if __name__ == "__main__":
    folder, workers, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    faults = {rank: fault for rank in range(5)} if fault else {}
    run_tasks([Square(folder, faults)], 5, Executor(workers=workers), folder / "logs")
"""


def start(folder: Path, workers: int, fault: str = "") -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), str(workers), fault]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)


def test_workers_die_with_the_build(tmp_path: Path) -> None:
    """They would keep writing the files that the next build writes."""
    build = start(tmp_path, workers=2, fault="slow")
    lines: list[str] = []
    while sum(line.endswith("\n") for line in lines) < 2:
        assert build.poll() is None
        time.sleep(0.05)
        lines = [path.read_text() for path in (tmp_path / "runs").glob("*")]
    build.send_signal(signal.SIGKILL)
    build.wait()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{int(line)}").exists() for line in lines):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / "repaired").touch()
    assert start(tmp_path, workers=2).wait(300) == 0
    assert results(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("settings", "tasks", "expected"),
    [
        ({"workers": 3}, 2, 2),
        ({"workers": 3}, 20, 3),
        ({"kind": "ray", "workers": 0}, 40, 40),
        ({"kind": "slurm", "workers": 7, "slurm": {"partition": "cpu"}}, 40, 7),
    ],
)
def test_workers_follow_the_recipe_and_never_exceed_the_tasks(
    settings: dict[str, Any], tasks: int, expected: int
) -> None:
    assert worker_count(executor(**settings), tasks) == expected


# Slurm's commands, as far as datatrove uses them: sbatch runs the tasks of an array job before it returns.
SBATCH = r"""#!/usr/bin/env bash
for script in "$@"; do :; done
cp "$script" "$SLURM_SEEN/job-$(ls "$SLURM_SEEN" | wc -l).sh"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
for task in $(seq 0 "${last:-0}"); do
  SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=localhost RUN_OFFSET=0 bash "$script" >>"$SLURM_SEEN/output" 2>&1
done
echo "Submitted batch job 4242"
"""
SRUN = """#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do if [ "$1" = -n ]; then shift; fi; shift; done
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts Slurm's commands on PATH; the folder `seen` collects what they are given."""
    commands, seen = tmp_path / "slurm", tmp_path / "seen"
    commands.mkdir()
    seen.mkdir()
    scripts = {
        "sbatch": SBATCH,
        "srun": SRUN,
        "scontrol": "#!/bin/sh\necho localhost\n",
        "squeue": "#!/bin/sh\necho slurm_load_jobs error: Invalid job id specified >&2\nexit 1\n",
        "scancel": '#!/bin/sh\necho "$@" >>"$SLURM_SEEN/cancelled"\n',
    }
    for name, text in scripts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_SEEN", str(seen))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return seen


SLURM = {
    "kind": "slurm",
    "workers": 2,
    "slurm": {"partition": "cpu-long", "time": "10:00:00", "qos": "", "memory_gib": 6},
}


def test_slurm_gets_one_array_job_with_the_recipes_settings(tmp_path: Path, slurm: Path) -> None:
    run_tasks([Square(tmp_path)], 5, executor(**SLURM), tmp_path / "signing")
    assert results(tmp_path) == EXPECTED
    script = (slurm / "job-0.sh").read_text()
    assert script == (tmp_path / "signing" / "launch_script.slurm").read_text()
    logs = tmp_path / "signing" / "slurm_logs" / "%A_%a.out"
    assert script == textwrap.dedent(
        f"""\
        #!/bin/bash
        #SBATCH --cpus-per-task=1
        #SBATCH --mem-per-cpu=6G
        #SBATCH --nodes=1
        #SBATCH --partition=cpu-long
        #SBATCH --job-name=parakeet-signing
        #SBATCH --time=10:00:00
        #SBATCH --output={logs}
        #SBATCH --error={logs}
        #SBATCH --array=0-4%2
        #SBATCH --requeue
        echo "Starting data processing job parakeet-signing"
        export PATH={Path(sys.executable).parent}:$PATH
        set -xe
        export PYTHONUNBUFFERED=TRUE
        srun  -l -n 1 launch_pickled_pipeline {tmp_path / "signing" / "executor.pik"}
        """
    )


def test_a_fault_on_a_cluster_is_raised_as_on_this_machine(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parakeet.data.slurm_tasks.POLL_SECONDS", 0.01)
    with pytest.raises(ParakeetError, match="Task 3 met a broken record in row 7"):
        run_tasks([Square(tmp_path, {3: "message"})], 5, executor(**SLURM), tmp_path / "logs")
    (tmp_path / "repaired").touch()
    run_tasks([Square(tmp_path, {3: "message"})], 5, executor(**SLURM), tmp_path / "logs")
    assert results(tmp_path) == EXPECTED
    assert runs(tmp_path) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}


def test_jobs_of_a_killed_build_are_cancelled_first(tmp_path: Path, slurm: Path) -> None:
    """They would keep writing the files that the next build writes."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "jobs").write_text("77\n78\n")
    run_tasks([Square(tmp_path)], 5, executor(**SLURM), tmp_path / "logs")
    assert (slurm / "cancelled").read_text().splitlines()[0] == "77 78"
    assert not (tmp_path / "logs" / "jobs").exists()
    assert results(tmp_path) == EXPECTED


def test_missing_slurm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ParakeetError, match="sbatch is not on this machine"):
        run_tasks([Square(tmp_path)], 2, executor(**SLURM), tmp_path / "logs")


def test_a_missing_ray_cluster_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed here (pip install 'parakeet-lm[ray]')")
    with pytest.raises(ParakeetError, match=r"Ray at 'auto' cannot be reached"):
        run_tasks([Square(tmp_path)], 2, executor(kind="ray", ray_address="auto"), tmp_path / "logs")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Ends Ray afterwards: it keeps running for the next pipeline in this process, and no other test should find it."""
    module = pytest.importorskip("ray", reason="Ray is not installed here (pip install 'parakeet-lm[ray]')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
        module.shutdown()


@pytest.mark.slow
def test_ray_runs_the_same_tasks_and_raises_the_same_faults(tmp_path: Path, ray: None) -> None:
    on_ray = executor(kind="ray", workers=2)
    with pytest.raises(ParakeetError, match="Task 3 met a broken record in row 7"):
        run_tasks([Square(tmp_path, {3: "message"})], 5, on_ray, tmp_path / "logs")
    (tmp_path / "repaired").touch()
    run_tasks([Square(tmp_path, {3: "message"})], 5, on_ray, tmp_path / "logs")
    assert results(tmp_path) == EXPECTED
    assert runs(tmp_path)[3] == 2


@pytest.mark.slow
def test_a_killed_ray_worker_is_noticed(tmp_path: Path, ray: None) -> None:
    """datatrove's Ray executor would wait for it forever."""
    with pytest.raises(ParakeetError, match="worker process was killed"):
        run_tasks([Square(tmp_path, {1: "killed"})], 3, executor(kind="ray", workers=2), tmp_path / "logs")
