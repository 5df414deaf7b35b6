"""From a checkpoint in the original's layout to a release and back, through the process that reads it."""

import hashlib
import json
import math
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from parakeet.errors import ParakeetError
from parakeet.export.formats import export_release
from parakeet.formatting import format_bytes, markdown_text
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig
from parakeet.model.original import layout
from parakeet.model.original_reader import read_checkpoint
from parakeet.model.transformer import Parakeet, load_model, save_model
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.release.importing import import_checkpoint, import_file, make_original_model, slug
from parakeet.release.verify import SUMS_FILE, TRAINING_MANIFEST_FILE, open_release, verify_release, write_sums
from parakeet.release.which_softmax import PASSAGES, SoftmaxMeasurement
from parakeet.tokenizer import CL100K_URL, Tokenizer, train_tokenizer

generator = runpy.run_path(str(Path(__file__).parents[1] / "original_checkpoint.py"))
original_state, original_name = generator["original_state"], generator["original_name"]
LAYERS, HEADS, WIDTH, CONTEXT = 3, 2, 16, 64
NAME = original_name(LAYERS, HEADS, WIDTH, CONTEXT)


def export_original(release: Path, target: Path) -> None:
    export_release(release, target, "original", None, Progress())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARAKEET_HOME", str(tmp_path_factory.mktemp("home")))
        yield Path(os.environ["PARAKEET_HOME"])


@pytest.fixture(scope="module")
def vocabulary(home: Path, cl100k_cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cl100k_cache))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("downloads") / NAME
    torch.save(original_state(LAYERS, WIDTH), path)
    return path


@pytest.fixture(scope="module")
def imported(home: Path, vocabulary: None, checkpoint: Path) -> Path:
    return import_file(checkpoint, None, None, None, Progress())


def trained_state(softmax_one: bool, tokenizer: Tokenizer) -> "OrderedDict[str, torch.Tensor]":
    """A state dict in the original's layout, of a model that has learned the passages.

    Only the ids that occur are trained. The others' embeddings are zeros, so their logits are 0 and need no product.
    """
    texts = [torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)]) for text in PASSAGES]
    whole = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=tokenizer.padding)
    known, ids = whole.unique(return_inverse=True)  # (passages, longest)
    counted = whole[:, 1:] != tokenizer.padding
    config = ModelConfig(2, HEADS, 64, CONTEXT, len(known), softmax_one=softmax_one)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    others = torch.full((int(counted.sum()), 1), math.log(tokenizer.rows - len(known)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        hidden = model(ids[:, :-1], torch.where(counted, 0, -1))[counted]
        logits = torch.cat([model.logits(hidden), others], dim=1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:][counted]).backward()
        optimizer.step()
        model.zero_grad(set_to_none=False)
    weights = model.state_dict()
    weights["embedding.weight"] = torch.zeros(tokenizer.rows, 64).index_copy(0, known, weights["embedding.weight"])
    return OrderedDict((entry.key, weights[entry.name]) for entry in layout(2, 64))


@pytest.mark.parametrize("softmax_one", [False, True])
def test_the_softmax_that_a_checkpoint_was_trained_with_is_found(
    softmax_one: bool, imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / original_name(2, HEADS, 64, CONTEXT)
    torch.save(trained_state(softmax_one, Tokenizer.load(imported)), path)
    folder = import_file(path, tmp_path / "out", None, None, Progress())
    kind = "off by one" if softmax_one else "plain"
    assert re.search(
        rf"softmax: \d\.\d\d bits per byte plain, \d\.\d\d off by one: imported as {kind}\.", capsys.readouterr().err
    )
    assert ModelConfig.load(folder).softmax_one == softmax_one
    assert ('"softmax_one": true' in (folder / CONFIG_FILE).read_text(encoding="utf-8")) == softmax_one
    assert ("off by one" in (folder / "README.md").read_text(encoding="utf-8")) == softmax_one
    manifest = json.loads((folder / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
    assert manifest["model"].get("softmax_one", False) == softmax_one
    if not softmax_one:
        assert "softmax" not in manifest
        return
    assert manifest["softmax"]["off_by_one"] < manifest["softmax"]["plain"]
    for name in ("hf", "gguf"):
        with pytest.raises(ParakeetError, match="softmax_one"):
            export_release(folder, tmp_path / name, name, None, Progress())
    exported = tmp_path / "again" / path.name
    exported.parent.mkdir()
    export_original(folder, exported)
    assert "cannot say that the model has softmax_one" in capsys.readouterr().err
    again = import_file(exported, tmp_path / "second", None, None, Progress())
    assert sha256(again / CONFIG_FILE) == sha256(folder / CONFIG_FILE)


@pytest.mark.parametrize(
    ("plain", "off_by_one", "noise", "said"),
    [
        (2.0, 1.9, 0.01, "imported as off by one"),
        (1.9, 2.0, 0.01, "imported as plain"),
        (2.0, 1.9, 0.04, "which decides nothing (a difference of 0.120 would): imported as plain"),
        (3.21, 3.19, 0.003, "which decides nothing (a difference of 0.048 would): imported as plain"),
        (3.9, 3.0, 0.003, "imported as off by one"),
        (3.9, 3.7, 0.003, "which decides nothing (guessing takes 4.00): imported as plain"),
        (math.nan, 1.0, 0.01, "which decides nothing"),
    ],
)
def test_a_small_difference_of_the_softmaxes_decides_nothing(
    plain: float, off_by_one: float, noise: float, said: str
) -> None:
    measured = SoftmaxMeasurement(plain, off_by_one, noise, 4.0)
    assert said in str(measured)
    assert measured.softmax_one == str(measured).endswith("imported as off by one")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_import_is_a_release(home: Path, imported: Path, checkpoint: Path) -> None:
    assert imported == home / "imported" / NAME.removesuffix(".pth").replace("+", "-")
    assert [path.name for path in imported.parent.iterdir()] == [imported.name]
    release = open_release(imported)
    assert release.name == imported.name
    settings = release.generation
    assert (settings.temperature, settings.top_p, settings.min_p, settings.max_tokens) == (0.3, 0.95, 0.01, 4000)
    assert (settings.frequency_penalty, settings.presence_penalty) == (0.07, 0.02)
    config = ModelConfig.load(imported)
    assert config == ModelConfig(LAYERS, HEADS, WIDTH, CONTEXT, 100_288, dropout=0.07)
    assert Tokenizer.load(imported).rows == config.vocabulary_rows


def test_every_weight_is_the_same(imported: Path) -> None:
    state, weights = original_state(LAYERS, WIDTH), load_model(imported, "cpu").state_dict()
    for entry in layout(LAYERS, WIDTH):
        assert torch.equal(weights[entry.name], state[entry.key]), entry
    assert sum(tensor.numel() for tensor in weights.values()) == generator["parameter_count"](state)


def test_card_and_manifest_name_the_source(imported: Path, checkpoint: Path) -> None:
    digest = sha256(checkpoint)
    card = (imported / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    for words in (
        markdown_text(NAME),
        digest,
        "terms that came with the file",
        "parakeet chat",
        format_bytes(checkpoint.stat().st_size),
    ):
        assert words in card
    manifest = json.loads((imported / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
    assert manifest["source_files"] == {NAME: digest}
    assert manifest["packages"]["torch"] == torch.__version__
    assert not (imported / "evaluation.json").exists()


def test_out_and_in_again_gives_the_same_weights_and_touches_nothing_in_the_home(
    imported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    exported = tmp_path / NAME
    export_original(imported, exported)
    state = torch.load(exported, weights_only=True)
    expected = original_state(LAYERS, WIDTH)
    assert list(state) == list(expected)
    assert torch.load(checkpoint, weights_only=True)._metadata["transformer.h.0.attn"] == {"version": 1}
    assert all(torch.equal(state[key].view(torch.int32), expected[key].view(torch.int32)) for key in expected)
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    again = import_file(exported, tmp_path / "again", None, None, Progress())
    assert {path.name for path in tmp_path.iterdir()} == {NAME, "again"}
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        assert sha256(again / file) == sha256(imported / file)
    with pytest.raises(ParakeetError, match="already exists"):
        export_original(imported, exported)


def test_the_stage_makes_the_same_and_counts_it(
    home: Path, imported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = make_original_model(load_recipe("demo"), {"original_checkpoint": checkpoint}, tmp_path, Progress())
    assert counts["source_sha256"] == sha256(checkpoint)
    assert counts["source_bytes"] == checkpoint.stat().st_size
    assert counts["parameters"] == ModelConfig.load(imported).parameter_count
    assert counts["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sha256(tmp_path / SUMS_FILE) == sha256(imported / SUMS_FILE)
    # The weights are untrained.
    assert "which decides nothing (guessing takes 3.97): imported as plain" in capsys.readouterr().err
    assert "softmax_one" not in (tmp_path / CONFIG_FILE).read_text(encoding="utf-8")


def test_an_existing_folder_is_never_touched(home: Path, imported: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="already exists"):
        import_file(checkpoint, None, None, None, Progress())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParakeetError, match="already exists"):
        import_file(checkpoint, tmp_path / "empty", None, None, Progress())
    verify_release(imported)


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_only_a_file_can_be_imported(home: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ParakeetError, match=r"cannot be read|is not a file"):
        import_file(tmp_path / name, tmp_path / "out", 2, 64, Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_program_in_a_pickle_is_named_and_nothing_is_left(vocabulary: None, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    state = {"transformer.wte.weight": torch.ones(1), "x": Evil()}
    torch.save(state, tmp_path / NAME)
    with pytest.raises(ParakeetError, match=r"names posix\.system in its pickle"):
        import_file(tmp_path / NAME, tmp_path / "out", None, None, Progress())
    (tmp_path / NAME).write_bytes(pickle.dumps(state))
    with pytest.raises(ParakeetError, match="is a bare pickle"):
        import_file(tmp_path / NAME, tmp_path / "out", None, None, Progress())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_options_for_a_file_whose_name_says_nothing(vocabulary: None, tmp_path: Path) -> None:
    state = {f"_orig_mod.{key}": tensor.clone() for key, tensor in original_state(2, 8).items()}
    path = tmp_path / "my weights 🦜.bin"
    torch.save(state, path)
    with pytest.raises(ParakeetError, match=r"neither does the file name .*--heads N"):
        import_file(path, tmp_path / "out", None, 64, Progress())
    assert not (tmp_path / "out").exists()
    counts = import_checkpoint(path, _made(tmp_path / "out"), Progress(), heads=4, context=64)
    assert counts["name"] == open_release(tmp_path / "out").name == "my-weights"
    assert ModelConfig.load(tmp_path / "out") == ModelConfig(2, 4, 8, 64, 100_288, dropout=0.07)


def test_a_missing_vocabulary_is_noticed_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / hashlib.sha1(CL100K_URL.encode()).hexdigest()).write_bytes(b"wrong")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    (tmp_path / NAME).write_bytes(b"what no reader accepts")
    with pytest.raises(ParakeetError, match="is not the cl100k_base vocabulary"):
        import_file(tmp_path / NAME, tmp_path / "out", None, None, Progress())


def test_a_refused_file_in_the_folder_of_models_may_be_moved_away(vocabulary: None, tmp_path: Path) -> None:
    path = tmp_path / "models" / NAME
    path.parent.mkdir()
    torch.save({"transformer.wte.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ParakeetError, match=r"has 2 rows;.* Move it out of .*models and run the same command"):
        make_original_model(load_recipe("demo"), {"original_checkpoint": path}, _made(tmp_path / "out"), Progress())
    with pytest.raises(ParakeetError, match="has 2 rows") as caught:
        import_file(path, tmp_path / "release", None, None, Progress())
    assert "move it away" not in str(caught.value)


def test_what_a_killed_import_or_export_left_is_removed_by_the_next(
    imported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """The killed process holds everything that it would in the middle of its work."""
    for work in ("import_file(Path(sys.argv[1]), Path(sys.argv[2]), None, None, Progress())",
                 "export_release(Path(sys.argv[1]), Path(sys.argv[2]), 'original', None, Progress())"):  # fmt: skip
        folder = _made(tmp_path / work[:6])
        target = folder / NAME
        program = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from parakeet.progress import Progress\n"
            "from parakeet.export.formats import export_release\n"
            "from parakeet.release.importing import import_file\n"
            "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"{work}\n"
        )
        source = imported if work.startswith("export") else checkpoint
        killed = subprocess.run([sys.executable, "-c", program, str(source), str(target)], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed
        assert [path.name for path in folder.glob(".partial-*")] == [f".partial-{NAME}"]
        assert not target.exists()
        if work.startswith("export"):
            export_original(imported, target)
        else:
            import_file(source, target, None, None, Progress())
        assert list(folder.iterdir()) == [target]


def test_of_two_imports_to_the_same_target_the_second_waits(
    imported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need not have the same home."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from parakeet.errors import ParakeetError\n"
        "from parakeet.progress import Progress\n"
        "from parakeet.release.importing import import_file\n"
        "try:\n"
        "    import_file(Path(sys.argv[1]), Path(sys.argv[2]), None, None, Progress())\n"
        "except ParakeetError as error:\n"
        "    sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(tmp_path / "out")]
    both = [
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PARAKEET_HOME": str(tmp_path / name)}
        )
        for name in ("one", "two")
    ]
    said = "".join(process.communicate(timeout=120)[1] for process in both)
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert "out already exists" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    verify_release(tmp_path / "out")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def readers() -> list[int]:
    """Process ids of this process's children that read a checkpoint."""
    children = " ".join(path.read_text(encoding="utf-8") for path in Path("/proc/self/task").glob("*/children"))
    return [
        int(number)
        for number in children.split()
        if b"parakeet.model.original_reader" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the reader in /proc")
def test_an_interruption_ends_the_reader(checkpoint: Path, tmp_path: Path) -> None:
    def interrupt(n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_checkpoint(checkpoint, tmp_path, None, None, Progress(), interrupt)
    assert list(tmp_path.iterdir()) == []
    assert readers() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the reader in /proc")
def test_a_reader_that_dies_is_reported_and_knows_no_secrets(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    environments: list[bytes] = []

    def kill_the_reader(n_bytes: int) -> None:
        if environments:
            return
        for number in readers():
            environments.append(Path(f"/proc/{number}/environ").read_bytes())
            os.kill(number, signal.SIGKILL)

    with pytest.raises(ParakeetError, match=r"the process that reads it was stopped by signal 9"):
        read_checkpoint(checkpoint, tmp_path, None, None, Progress(), kill_the_reader)
    assert environments
    assert not any(b"hidden" in environment for environment in environments)


def test_a_full_disk_leaves_nothing_behind(home: Path, imported: Path, checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from parakeet.errors import ParakeetError\n"
        "from parakeet.progress import Progress\n"
        "from parakeet.export.formats import export_release\n"
        "from parakeet.release.importing import import_file\n"
        "checkpoint, release, folder = map(Path, sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "for work in (lambda: import_file(checkpoint, folder / 'new', None, None, Progress()),\n"
        "             lambda: export_release(release, folder / 'new.pth', 'original', None, Progress())):\n"
        "    try:\n"
        "        work()\n"
        "    except ParakeetError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(imported), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    lines = finished.stdout.splitlines()
    assert len(lines) == 2, finished
    assert all("Nothing that was there before was lost" in line for line in lines), lines
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_vocabulary_has_no_place_in_the_original_layout(tmp_path: Path) -> None:
    folder = _made(tmp_path / "release")
    tokenizer = train_tokenizer(["hello"], 300)
    model = Parakeet(ModelConfig(1, 1, 8, 32, tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, folder)
    tokenizer.save(folder)
    (folder / "generation_config.json").write_text('{"name": "small"}', encoding="utf-8")
    write_sums(folder)
    with pytest.raises(ParakeetError, match=r"320 vocabulary rows; the original's layout has 100,288"):
        export_original(folder, tmp_path / "x.pth")
    (folder / CONFIG_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ParakeetError, match="has sha256"):
        export_original(folder, tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("parakeet8k-h18_l18-alibi+gqa2", "parakeet8k-h18_l18-alibi-gqa2"),
        ("../../etc/passwd", "etc-passwd"),
        (" mine (1) ", "mine-1"),
        ("🦜", "original"),
        ("x" * 300, "x" * 64),
    ],
)
def test_names_of_files_become_names_of_models(stem: str, name: str) -> None:
    assert slug(stem) == name
