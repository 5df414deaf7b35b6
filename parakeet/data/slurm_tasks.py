"""Tasks as array jobs of Slurm."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor, default_job_id_retriever
from datatrove.pipeline.base import PipelineStep

from parakeet.errors import ParakeetError
from parakeet.recipe import Slurm

POLL_SECONDS = 5.0
GRACE_POLLS = 6
"""How many polls may find no job although tasks are unfinished: a shared folder shows new files late."""
CANCEL_POLLS = 60
JOBS_FILE = "jobs"
UNKNOWN_JOB = "invalid job id"
"""squeue's message about a job that ended a while ago. After any other failure of squeue the job may be running."""


class SlurmTasks(SlurmPipelineExecutor):
    """datatrove's Slurm executor, made to wait. It writes `launch_script.slurm` to `logs` and hands it to sbatch.

    The ids of submitted jobs are kept in `logs/jobs`, so that jobs of a killed build are cancelled before the next
    build writes the same files. An interrupted build cancels its own jobs.
    """

    def __init__(self, pipeline: list[PipelineStep], tasks: int, workers: int, slurm: Slurm, logs: Path) -> None:
        super().__init__(
            pipeline,
            tasks,
            time=slurm.time,
            partition=slurm.partition,
            mem_per_cpu_gb=slurm.memory_gib,
            workers=workers,
            job_name=f"parakeet-{logs.name}",
            qos=slurm.qos or None,
            env_command=slurm.environment or f"export PATH={Path(sys.executable).parent}:$PATH",
            logging_dir=str(logs),
            job_id_retriever=partial(_remember, str(logs / JOBS_FILE), default_job_id_retriever),
        )

    def launch_merge_stats(self) -> None:
        """Nothing: datatrove would start one more job, which reads this folder when it no longer exists."""

    def run(self) -> None:
        """Submit the unfinished tasks and wait until all are done or no job is left. Inside a job, run its tasks."""
        if "SLURM_ARRAY_TASK_ID" in os.environ:
            super().run()
            return
        self._cancel()
        try:
            super().run()
            self._wait()
        except FileNotFoundError:
            raise ParakeetError("executor.kind slurm needs Slurm's commands: sbatch is not on this machine.") from None
        except subprocess.CalledProcessError as error:
            raise ParakeetError(
                f"sbatch refused the job (status {error.returncode}). Its script is "
                f"{self.logging_dir.resolve_paths('launch_script.slurm')}; its settings come from executor.slurm."
            ) from None
        finally:
            self._cancel()

    def _wait(self) -> None:
        unknown = 0
        while self.get_incomplete_ranks(skip_completed=True) and unknown < GRACE_POLLS:
            time.sleep(POLL_SECONDS)
            unknown = 0 if any(map(_may_run, self._jobs())) else unknown + 1

    def _cancel(self) -> None:
        """Cancel the recorded jobs and wait until Slurm confirms that they ended."""
        jobs = self._jobs()
        if not jobs:
            return
        subprocess.run(["scancel", *jobs], capture_output=True, check=False)
        for _ in range(CANCEL_POLLS):
            if not any(map(_may_run, jobs)):
                Path(self.logging_dir.resolve_paths(JOBS_FILE)).unlink()
                return
            time.sleep(POLL_SECONDS)
        raise ParakeetError(
            f"Slurm does not confirm that the jobs {', '.join(jobs)} have ended; they may still be writing. End them "
            "(scancel, squeue) and run the same command again."
        )

    def _jobs(self) -> list[str]:
        file = Path(self.logging_dir.resolve_paths(JOBS_FILE))
        return file.read_text(encoding="utf-8").split() if file.is_file() else []


def _remember(file: str, retrieve: Callable[[str, int], str], output: str) -> str:
    """Record the job id, which is the last word of sbatch's output."""
    job = retrieve(output, -1)
    with Path(file).open("a", encoding="utf-8") as jobs:
        jobs.write(f"{job}\n")
    return job


def _may_run(job: str) -> bool:
    listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True, check=False)
    if listed.returncode:
        return UNKNOWN_JOB not in listed.stderr.lower()
    return bool(listed.stdout.strip())
