"""The original model at its true size: downloaded over a broken connection, imported, used in a chat, exported."""

import hashlib
import json
import mmap
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import environment, parakeet

TESTS = Path(__file__).parents[1]
NAME = "parakeet8k-c8192-d1152-fexp4_v100288_h18_l18-alibi+gqa2.pth"
FaultServer = runpy.run_path(str(TESTS / "fault_server.py"))["FaultServer"]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(path: Path) -> list[tuple[str, str]]:
    """Key, type, shape and hash of each tensor, in the file's order; nothing of the file stays in memory."""
    state = torch.load(path, weights_only=True, mmap=True)
    return [
        (key, f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(tensor.numpy()).hexdigest()}")
        for key, tensor in state.items()
    ]


@pytest.mark.slow
def test_the_original_model_from_a_broken_download_to_a_chat_and_back(
    tmp_path: Path, cl100k_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cl100k_cache))
    published, home = tmp_path / NAME, tmp_path / "home"
    subprocess.run([sys.executable, TESTS / "original_checkpoint.py", published], check=True, env=environment(home))
    digest, expected = sha256(published), tensors(published)
    with published.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        server = FaultServer(body)
        server.cut_bytes = len(body) * 2 // 3
        with server:
            original = {"mirrors": [server.address("cut", NAME)], "drive_id": None, "sha256": digest}
            recipe = tmp_path / "recipe.json"
            recipe.write_text(json.dumps({"extends": "demo", "name": "original", "original": original}), "utf-8")
            built = parakeet(home, "build", "--recipe", str(recipe), "--select", "original_model")
            assert built.returncode == 0, built.stderr.decode()
            assert b"378,343,296 parameters" in built.stdout + built.stderr
            assert server.ranges("cut"), "the connection broke, and the rest was requested"
    published.unlink()

    again = parakeet(home, "build", "--recipe", str(recipe), "--select", "original_model")
    assert again.returncode == 0
    assert again.stderr.count(b"up to date") == 2, again.stderr.decode()

    model = home / "original_model" / "latest"
    said = parakeet(home, "chat", "--model", str(model), "-m", "Hello!", "--max-tokens", "3", "--seed", "1")
    assert said.returncode == 0, said.stderr.decode()
    assert said.stdout.strip()

    (home / "models" / NAME).unlink()
    (tmp_path / "back").mkdir()
    back = tmp_path / "back" / NAME
    exported = parakeet(home, "export", "--format", "original", str(model), str(back))
    assert exported.returncode == 0, exported.stderr.decode()
    assert tensors(back) == expected
    os.unlink(back)
