"""The GPU check, rehearsed on the CPU with a tiny model: it has to work on the day a GPU is at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check.tokens import make_tokens

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check" / "gpu_check.sh"
STEPS = ("train", "profile", "matrix", "generate", "attention", "resume")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("gpu-check")
    make_tokens(folder / "tokens", 1000, {"kind": "bpe", "vocabulary": 400})
    return {
        **os.environ,
        # Three steps, however slow the machine is.
        "GPU_CHECK": "--device cpu --tiny --steps 3 --seconds 10000 --rounds 1",
        "GPU_CHECK_PATIENCE": "50",
        "GPU_CHECK_TOKENS": str(folder / "tokens"),
        "GPU_CHECK_RUN": str(folder / "run"),
        "NO_INSTALL": "1",
        "OUT": str(folder / "out"),
        "PYTHON": sys.executable,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }


@pytest.mark.slow
def test_the_check_is_rehearsed_without_a_gpu(environment: dict[str, str]) -> None:
    command = ["bash", str(SCRIPT), "20000", *STEPS]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    logs = "".join(log.read_text(encoding="utf-8") for log in Path(environment["OUT"]).glob("*.log"))
    for step in STEPS:
        assert f"## {step}: rc 0," in finished.stdout, logs
    assert "SUM FAILED" not in finished.stdout, logs
    for finding in ("SUM trainer: ", "from scratch", "resumed", "SUM steps 1–", "TFLOP/s", "ms a token"):
        assert finding in finished.stdout
    assert (Path(environment["OUT"]) / "metrics.jsonl").stat().st_size > 0


def test_without_a_gpu_the_target_says_what_is_missing(tmp_path: Path) -> None:
    # The recipe's own environment is not installed for this: the one of the tests stands in for it.
    command = ["make", "gpu-check", f"BIN={Path(sys.executable).parent}", "-o", ".venv/.installed-dev"]
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert finished.returncode != 0
    assert "gpu-check: PyTorch finds no CUDA device on this machine" in finished.stderr
    assert not (ROOT / ".gpu-tokens").exists()
