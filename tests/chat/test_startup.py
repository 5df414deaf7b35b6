"""What the first token of a chat must not cost: modules, initial weights, and hashes that are known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parakeet.chat.models import ModelOpener
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.model.config import WEIGHTS_FILE
from parakeet.model.transformer import load_model

from .tiny_models import write_release

NOT_NEEDED = {
    "dagster", "datatrove", "filelock", "matplotlib", "parakeet.recipe", "prompt_toolkit", "pyarrow", "pydantic",
    "requests", "rich", "sympy", "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "yaml",
}  # fmt: skip

CHATS = """
import gc, sys, weakref
from pathlib import Path
from click.testing import CliRunner
from parakeet.cli import main
for arguments in (["-m", "hi"], ["hi"], ["--raw", "hi"], ["--json", "hi"], ["--stats", "--dtype", "bf16", "hi"]):
    done = CliRunner().invoke(main, ["chat", *arguments, "--temperature", "0"])
    assert done.exit_code == 0, done.output
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
from parakeet.chat.models import ModelOpener
opened = ModelOpener(Path(sys.argv[1])).open()
model = weakref.ref(opened.engine.model)
del opened
gc.collect()
print(model() is None)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    write_release(root / "releases" / "e2f4-0", "built", max_tokens=3)
    (root / "releases" / "latest").symlink_to("e2f4-0")
    return root


def test_the_first_token_needs_few_modules_and_what_an_import_made_is_not_collected(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHATS, str(root), *NOT_NEEDED],
        capture_output=True, text=True, env={**os.environ, "PARAKEET_HOME": str(root)}, timeout=300,
    )  # fmt: skip
    # No module, a collector that works as before, and a model that it can free.
    assert done.stdout == "\nTrue True\nTrue\n", done.stderr


def test_loading_computes_nothing_but_the_check_of_the_weights(root: Path) -> None:
    called = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
            called.add(function.overloadpacket.__name__)
            return function(*arguments, **(keywords or {}))

    before = torch.get_rng_state()
    with Recorder():
        load_model(root / "releases" / "latest", "cpu")
    assert "aminmax" in called
    assert not {name for name in called if name.startswith(("normal", "uniform", "rand", "isfinite", "arange", "pow"))}
    assert torch.equal(torch.get_rng_state(), before)


def test_known_weights_are_not_hashed_again(tmp_path: Path) -> None:
    file, cache = tmp_path / WEIGHTS_FILE, tmp_path / "cache.json"
    file.write_bytes(b"weights")
    first = HashCache(cache).sha256_for_reader(file)
    cache.write_text(cache.read_text(encoding="utf-8").replace(first, "f" * 64), encoding="utf-8")
    assert HashCache(cache).sha256_for_reader(file) == "f" * 64
    file.write_bytes(b"WEIGHTS")
    assert HashCache(cache).sha256_for_reader(file) not in (first, "f" * 64)
    assert HashCache(cache).sha256_for_reader(file) == HashCache(tmp_path / "nowhere" / "x").sha256_for_reader(file)
    assert not (tmp_path / "nowhere").exists()


def test_changed_weights_are_refused_though_they_were_opened_before(root: Path) -> None:
    ModelOpener(root).open()
    weights = root / "releases" / "latest" / WEIGHTS_FILE
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ParakeetError, match=r"model\.safetensors has sha256"):
        ModelOpener(root).open()


@pytest.mark.parametrize("kind", ["a wrong hash", "no JSON", "another shape", "a folder"])
def test_a_useless_cache_of_hashes_keeps_nobody_from_chatting(root: Path, kind: str) -> None:
    cache = root / ".hashes.json"
    ModelOpener(root).open()
    known = json.loads(cache.read_text(encoding="utf-8"))
    if kind == "a folder":
        cache.unlink()
        cache.mkdir()
    else:
        wrong = json.dumps({file: [*entry[:-1], "0" * 64] for file, entry in known.items()})
        cache.write_text({"a wrong hash": wrong, "no JSON": "{", "another shape": "[1]"}[kind], encoding="utf-8")
    assert ModelOpener(root).open().release.name == "built"
