"""`parakeet plan`: the whole text as a user sees it."""

import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from parakeet.cli import main
from parakeet.plan_files import text_bytes


def _zip(text: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text)
    return written.getvalue()


def _parquet(text: bytes) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.table({"text": [text.decode()]}), written)
    return written.getvalue()


TEXT = b"".join(f"Line {number}: {number * 7919}\n".encode() for number in range(300))
WHOLE = {
    "gzip": gzip.compress(TEXT),
    "zstd": zstandard.compress(TEXT),
    "bz2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zip": _zip(TEXT),
    "parquet": _parquet(TEXT),
}
GPU = ("--recipe", "parakeet-378m", "--gpu", "RTX 3080 Ti")


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["plan", *arguments])
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def section(text: str, title: str) -> list[list[str]]:
    """The words of each line of the section whose title begins so."""
    found = [part.splitlines() for part in text.split("\n\n") if part.startswith(title)]
    assert len(found) == 1, text
    return [line.split() for line in found[0][1:]]


def figures(rows: list[list[str]]) -> dict[str, float]:
    """The first figure of each row by the words before it; memory in GiB."""
    places = ((row, next((n for n, word in enumerate(row) if re.fullmatch(r"[\d,.]+", word)), None)) for row in rows)
    return {
        " ".join(row[:place]): float(row[place].replace(",", "")) / (1024 if "MiB" in row[place + 1 : place + 2] else 1)
        for row, place in places
        if place
    }


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text("extends: parakeet-378m\n" + text, encoding="utf-8")
    return str(path)


def test_it_prints_what_follows_from_the_large_recipe_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    text = plan("--recipe", "parakeet-378m")
    assert "378,343,296" in text
    assert "12,500,000,000" in text
    assert section(text, "Memory of a training step on this machine's processor")
    assert "Time" not in text
    assert not any(tmp_path.iterdir())


def test_the_plan_for_a_gpu_has_memory_by_part_policies_speed_time_and_energy() -> None:
    text = plan(*GPU)
    memory = figures(section(text, "Memory of a training step on an RTX 3080 Ti"))
    parts = ("weights", "gradients", "optimizer", "activations", "loss", "scratch")
    assert sum(memory[part] for part in parts) == pytest.approx(memory["total"], abs=0.04)
    assert memory["total"] < memory["budget"] == 11.2
    policies = section(text, "Policies at 8,192 tokens in a pass; * fits 11.20 GiB with 5% to spare")
    assert policies[0] == ["checkpointing,", "residual", "adamw", "muon", "adamw_8bit"]
    assert [line[:2] for line in policies[1:7]] == [
        [policy, residual] for policy in ("none,", "mlp,", "block,") for residual in ("fp32", "bf16")
    ]
    assert policies[1][3] != "*"
    assert policies[6].count("*") == 3
    assert figures(policies)["longest sequence"] >= 24_576
    time = section(text, "Time on one RTX 3080 Ti (68.2 TFLOPS in dense bf16, 912 GB/s, 350 W)")
    assert ["tokens/s,", "sequences", "of", "8,192", "7,948", "9,935", "11,922"] in time
    assert "total time 13 d 17 h 10 d 23 h 9 d 3 h" in [" ".join(line) for line in time]
    assert ["total", "energy", "115.2", "kWh", "92.1", "kWh", "76.8", "kWh"] in time
    assert "4,451,549,184  (as PaLM counts" in text


def test_less_memory_is_another_policy_and_too_little_names_what_fits(tmp_path: Path) -> None:
    auto = recipe_file(tmp_path, "training: {activation_checkpointing: auto}\n")
    less = plan("--recipe", auto, "--gpu", "RTX 3080 Ti", "--memory", "7.5GiB")
    assert ["checkpointing", "block", "block"] in section(less, "Memory")
    text = plan(*GPU, "--memory", "3GB")
    assert "does not fit" in text
    assert "alone take 4.18 GiB" in text


def test_memory_alone_is_that_of_a_gpu() -> None:
    text = plan("--recipe", "parakeet-378m", "--memory", "80GiB")
    assert section(text, "Memory of a training step on a GPU")
    assert "flex" in text
    assert "Time" not in text


def test_phases_are_planned_one_by_one(tmp_path: Path) -> None:
    recipe = recipe_file(
        tmp_path, "packing:\n  sequence_length: 1024\n  then: [{sequence_length: 8192, share: 0.05}]\n"
    )
    text = plan("--recipe", recipe, "--gpu", "RTX 3080 Ti")
    training = section(text, "Training")
    assert ["sequences", "of", "1,024", "22,650", "steps,", "1", "to", "22,650"] in training
    assert ["sequences", "of", "8,192", "1,192", "steps,", "22,651", "to", "23,842"] in training
    assert section(text, "Memory")[0] == ["length", "1,024", "length", "8,192"]
    time = section(text, "Time")
    assert ["tokens/s,", "sequences", "of", "1,024", "10,738", "13,422", "16,107"] in time
    assert "total time 13 d 17 h 10 d 23 h 9 d 3 h" in [" ".join(line) for line in time]


def test_an_explicit_setting_that_does_not_fit_is_answered_with_the_change(tmp_path: Path) -> None:
    recipe = recipe_file(
        tmp_path, "training:\n  activation_checkpointing: none\n  optimizer: adamw\n  residual: fp32\n"
    )
    text = plan("--recipe", recipe, "--gpu", "RTX 3080 Ti")
    refused = "does not fit                Sequences of 8,192: Set training.activation_checkpointing to auto"
    assert refused in text


def test_several_processes_share_the_steps_and_a_processors_memory(tmp_path: Path) -> None:
    two = recipe_file(tmp_path, "training: {processes: 2}\n")
    text = plan("--recipe", two, "--gpu", "RTX 3080 Ti")
    assert ["processes", "2", "that", "share", "each", "step,", "one", "a", "GPU"] in section(text, "Training")
    memory = figures(section(text, "Memory of a training step on each of 2 RTX 3080 Ti"))
    assert memory["budget"] == 10.8, "NCCL takes 0.4"
    time = section(text, "Time on 2 RTX 3080 Ti (68.2 TFLOPS in dense bf16, 912 GB/s, 350 W each)")
    assert ["tokens/s,", "sequences", "of", "8,192", "15,896", "19,870", "23,844"] in time
    assert "total time 6 d 21 h 5 d 12 h 4 d 14 h" in [" ".join(line) for line in time]
    assert ["total", "energy", "115.2", "kWh", "92.1", "kWh", "76.8", "kWh"] in time
    here = plan("--recipe", two)
    title = "Memory of a training step in each of 2 processes on this machine's processor"
    alone = figures(section(plan("--recipe", "parakeet-378m"), "Memory"))
    assert figures(section(here, title))["budget"] == pytest.approx(alone["budget"] / 2, abs=0.01)
    assert "shared by 2 processes" in here


def test_gradients_of_several_processes_are_all_there_at_once(tmp_path: Path) -> None:
    """As where passes accumulate, even where each process has one pass of a step."""
    settings = (
        "training: {processes: %d, batch_tokens: 16384, micro_batch_tokens: 8192, activation_checkpointing: none}\n"
    )
    accumulated, shared = (
        # In the same memory: NCCL takes some of a GPU's.
        section(plan("--recipe", recipe_file(tmp_path, settings % processes), "--memory", "23.2GiB"), "Policies")
        for processes in (1, 2)
    )
    assert accumulated == shared


def test_all_gpus_are_planned_as_one(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, "training: {processes: 0}\n")
    text = plan("--recipe", recipe, "--gpu", "RTX 3080 Ti")
    assert "1  assumed: training.processes 0 takes every GPU" in text
    assert section(text, "Time on one RTX 3080 Ti")
    on_one = recipe_file(tmp_path, "training: {processes: 0, device: 'cuda:0'}\n")
    assert "assumed" not in plan("--recipe", on_one, "--gpu", "RTX 3080 Ti")


def test_time_in_fp32_is_not_forecast_from_a_rate_in_bf16(tmp_path: Path) -> None:
    text = plan("--recipe", recipe_file(tmp_path, "training: {precision: fp32}\n"), "--gpu", "RTX 3080 Ti")
    why = "not forecast: the table of GPUs has rates in bf16; set training.precision: bf16"
    assert section(text, "Time on one RTX 3080 Ti") == [why.split()]


def test_flexattention_without_a_gpu_is_reported(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, "training: {attention: flex}\n")
    problem = "training.attention is flex, which needs a CUDA device; use auto, fused or reference."
    assert problem.split() in section(plan("--recipe", recipe), "Before it can train")
    assert "Before it can train" not in plan("--recipe", recipe, "--gpu", "RTX 3080 Ti")
    assert "Before it can train" not in plan("--recipe", recipe, "--memory", "12GB")


@pytest.mark.parametrize(
    ("package", "settings"), [("bitsandbytes", "optimizer: adamw_8bit"), ("tensorboard", "tensorboard: true")]
)
def test_a_package_that_is_missing_is_named(tmp_path: Path, package: str, settings: str) -> None:
    recipe = recipe_file(tmp_path, f"training: {{{settings}}}\n")
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name == {package!r} else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]\n"
        "from parakeet.cli import main\n"
        f"main(['plan', '--recipe', {recipe!r}])\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert any("pip" in line for line in section(finished.stdout, "Before it can train"))


@pytest.mark.parametrize("memory", ["1kB", "3MiB", "999TiB"])
@pytest.mark.parametrize("name", ["demo", "parakeet-378m"])
def test_any_amount_of_memory_has_a_unit_that_suits_it(name: str, memory: str) -> None:
    text = plan("--recipe", name, "--memory", memory)
    titles = [line for line in text.splitlines() if line.startswith(("Memory of", "Policies"))]
    assert {"1kB": "1000 B", "3MiB": "3.00 MiB", "999TiB": "999.00 TiB"}[memory] in titles[1]
    assert not re.search(r"\b0\.0+ [MG]iB", text)
    assert ("none fits" in text) == ("does not fit" in text) == (memory != "999TiB")
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("arguments", [(), GPU, ("--memory", "12GB")])
def test_its_figures_stand_below_one_another_and_it_fits_a_terminal(arguments: tuple[str, ...]) -> None:
    text = plan(*arguments)
    tables = [part for part in text.split("\n\n") if part.startswith(("Model", "Training", "Memory", "Time", "Disk"))]
    for line in (line for table in tables for line in table.splitlines()[1:]):
        assert line[44] != " ", line
        assert line[45:46] in ("", " "), line
    assert max(map(len, text.splitlines())) <= 110
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_the_json_has_the_figures_of_the_text(tmp_path: Path) -> None:
    text, document = plan(*GPU), json.loads(plan(*GPU, "--json"))
    assert set(document) == {"recipe", "sources", "model", "training", "memory", "time", "disk"}
    assert f"{document['model']['parameters']:,}" in text
    assert sum(document["model"]["parameters_by_part"].values()) == document["model"]["parameters"]
    assert f"{document['training']['steps']:,}  of" in text
    for memory in document["memory"]["by_sequence_length"].values():
        assert sum(memory["bytes_by_part"].values()) == memory["bytes"] < document["memory"]["budget_bytes"]
    assert [round(time["seconds"] / 86400, 1) for time in document["time"]] == [13.7, 11.0, 9.1]
    assert [round(time["watt_hours"] / 1000, 1) for time in document["time"]] == [115.2, 92.1, 76.8]
    here = json.loads(plan("--json"))
    assert (here["time"], here["memory"]["device"], here["sources"][0]["rows"]) == (None, "cpu", 19_000)
    fp32 = recipe_file(tmp_path, "training: {precision: fp32}\n")
    assert json.loads(plan("--recipe", fp32, "--gpu", "RTX 3080 Ti", "--json"))["time"] == []


def test_a_plan_for_ones_own_text_counts_its_files(tmp_path: Path) -> None:
    text = "".join(f"Line {number} has {number * 7919} words.\n" for number in range(40_000)).encode()
    files = {
        "a.txt": text,
        "b.txt.gz": gzip.compress(text),
        "c.txt.zst": zstandard.compress(text),
        "d.txt.gz": text,  # plain text under another name
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("e.txt", text)
    names = [*files, "e.zip"]
    document = json.loads(plan(*(word for name in names for word in ("--data", str(tmp_path / name))), "--json"))
    for name, source in zip(names, document["sources"], strict=True):
        assert source["file_bytes"] == (tmp_path / name).stat().st_size
        assert source["text_bytes"] == pytest.approx(len(text), rel=0.02), name
    assert document["recipe"]["name"] == "a-and-4-more"
    assert document["training"]["text_tokens"] == pytest.approx(5 * len(text) / 3.53, rel=0.02)
    passes = 1_250_000 / document["training"]["text_tokens"]
    shown = plan(*(word for name in names for word in ("--data", str(tmp_path / name))))
    assert ["passes", "over", "the", "text", f"{passes:.1f}"] == section(shown, "Training")[2][:5]
    assert "does not exist" in refused("--data", str(tmp_path / "nothing"))
    assert document["training"]["text_tokens"] // 2 == pytest.approx(
        json.loads(plan(*(word for name in names for word in ("--data", str(tmp_path / name))), "--limit", "50%",
                        "--json"))["training"]["text_tokens"], rel=0.01)  # fmt: skip


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
)
def test_any_damage_leaves_an_amount_that_is_a_number(
    kind: str, cut: int, flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(WHOLE[kind][: -cut or None])
    for place, value in flips:
        if place < len(content):
            content[place] = value
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(content)
    assert text_bytes(file) >= 0


@pytest.mark.parametrize(
    "head",
    [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04", b"PAR1", b"\x04\x22\x4d\x18", b""],
)
def test_a_damaged_file_has_an_unknown_amount_of_text(tmp_path: Path, head: bytes) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(head + b"\xff\xfe nonsense" * bool(head))
    (source,) = json.loads(plan("--data", str(file), "--json"))["sources"]
    assert (source["files"], source["text_bytes"]) == (1, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--card", "RTX 3081 Ti"), "Unknown GPU 'RTX 3081 Ti'. Did you mean RTX 3080 Ti"),
        (("--gpu", "Voodoo 2"), "not in the table, give --memory instead. The table has RTX 3060,"),
        (("--gpu", ""), "Unknown GPU ''. For a GPU that is not in the table"),
        (("--gpu", "x\x1b[31my"), "Unknown GPU"),
        (("--memory", "plenty"), "'plenty' is not an amount of memory: write it like 11.2GiB"),
    ],
)
def test_mistakes_are_one_message(arguments: tuple[str, ...], message: str) -> None:
    output = refused(*arguments)
    assert message in output
    assert "\x1b" not in output
    assert output.count("\n") == 1


def test_it_needs_no_torch() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom parakeet.cli import main\n"
        f"result = CliRunner().invoke(main, ['plan', *{GPU!r}])\n"
        "assert result.exit_code == 0\nassert not {'torch', 'pyarrow', 'datatrove'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
