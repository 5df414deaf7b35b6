"""`parakeet models` and `verify`: what is here, by name, and what goes when a model is removed."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from parakeet.cli import main
from parakeet.home import latest_release
from parakeet.model.config import ModelConfig
from parakeet.release.verify import write_sums
from parakeet.stages import STAGES

SMALL = ModelConfig(layers=2, heads=2, width=16, context=64, vocabulary_rows=128)


def add_release(home: Path, folder: str, name: str, made: str, **counts: object) -> Path:
    """A release as far as its records go; the weights are not read by these commands."""
    path = home / "releases" / folder
    path.mkdir(parents=True)
    SMALL.save(path)
    for file in ("model.safetensors", "tokenizer.json", "vocabulary.tiktoken"):
        (path / file).write_bytes(b"0" * 1000)
    (path / "generation_config.json").write_text(json.dumps({"name": name}), encoding="utf-8")
    training = {
        "recipe": {"description": "Of notes.", "sources": [{"name": "notes", "licence": "CC0-1.0"}]},
        "stages": {"checkpoint": {"counts": {"run": "ba1c68e5", "steps": 25, "tokens": 6380, "final_loss": 5.9}}},
    }
    (path / "training_manifest.json").write_text(json.dumps(training), encoding="utf-8")
    scores = {
        "exact_match": {"capitals": {"accuracy": 0.5, "questions": 200}},
        "chat": {"prompts": 200, "sensible": 0.85, "interval": [0.8, 0.9], "categories": {}, "failed": []},
    }
    (path / "evaluation.json").write_text(json.dumps(scores), encoding="utf-8")
    write_sums(path)
    known = {"name": name, "parameters": 3_377_920, "bits_per_byte": {"notes": 1.25}, **counts}
    manifest = {"schema": 1, "made": made, "counts": known, "stage": "release", "fingerprint": folder[:-2]}
    manifest |= {"content": "c0", "inputs": {}, "files": {}, "versions": {"parakeet": "0.2.0"}}
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    latest = latest_release(home)
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three releases, two of one name, and an imported model."""
    root = tmp_path / "home"
    two = {"bits_per_byte": {"a": 1.5, "b": 0.75, "c": None}}
    add_release(root, "aaaa00001111bbbb-0", "demo", "2026-11-25T12:00:00+00:00", **two)
    add_release(root, "aaaa00002222bbbb-0", "notes", "2026-11-26T12:00:00+00:00", bits_per_byte={"a": None})
    add_release(root, "cccc00002222bbbb-0", "demo", "2026-11-27T12:00:00+00:00")
    imported = root / "imported" / "a-very-long-name-of-somebody-elses-model-with-many-words-in-it.v2"
    imported.mkdir(parents=True)
    SMALL.save(imported)
    (imported / "generation_config.json").write_text(json.dumps({"name": "theirs"}), encoding="utf-8")
    return root


def run(home: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments, env={"PARAKEET_HOME": str(home)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def output(home: Path, *arguments: str) -> str:
    result = run(home, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(home: Path, *arguments: str) -> str:
    result = run(home, *arguments)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    return result.output


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_the_list_has_a_head_sizes_local_times_and_fits_80_columns(home: Path) -> None:
    head, *lines = output(home, "models").splitlines()
    assert head.split() == ["MODEL", "ID", "STATE", "PARAMS", "SIZE", "BUILT", "BITS/BYTE"]
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "demo aaaa00001 not judged 3.38 M 4.3 KiB 2026-11-25 21:00 0.75–1.50",
        "notes aaaa00002 not judged 3.38 M 4.3 KiB 2026-11-26 21:00 –",
        "* demo cccc00002 promoted 3.38 M 4.3 KiB 2026-11-27 21:00 1.250",
    ]
    assert lines[3].split()[0] == "theirs"
    assert max(map(len, [head, *lines])) <= 80


def test_a_damaged_record_hides_no_other_model(home: Path) -> None:
    (home / "releases" / "aaaa00002222bbbb-0" / "manifest.json").write_text("{}", encoding="utf-8")
    text = output(home, "models", "list")
    assert text.count("demo ") == 2
    assert "aaaa00002222bbbb-0/manifest.json cannot be read" in text
    document = json.loads(output(home, "models", "--json"))
    assert [model["name"] for model in document["models"]] == ["demo", "demo", "theirs"]
    assert len(document["unreadable"]) == 1


def test_the_json_of_a_model_has_what_the_list_has_and_more(home: Path) -> None:
    listed = json.loads(output(home, "models", "list", "--json"))["models"]
    assert set(listed[0]) == {
        *("name", "id", "latest", "state", "parameters", "bytes", "built", "bits_per_byte", "folder"),
    }
    shown = json.loads(output(home, "models", "show", "cccc", "--json"))
    assert {key: shown[key] for key in listed[2]} == listed[2]
    assert shown["training"] == {"run": "ba1c68e5", "steps": 25, "tokens": 6380, "final_loss": 5.9}
    assert shown["exact_match"] == {"capitals": {"questions": 200, "accuracy": 0.5}}
    assert shown["chat"] == {"prompts": 200, "sensible": 0.85}
    assert "85.0% of 200 prompts answered sensibly" in output(home, "models", "show", "cccc")
    assert shown["licences"] == {"notes": "CC0-1.0"}
    assert set(shown["sha256"]) >= {"model.safetensors", "config.json"}


def test_numbers_that_json_lacks_are_null(home: Path) -> None:
    add_release(
        home, "dddd-0", "nan", "2026-11-28T12:00:00+00:00", bits_per_byte={"a": float("nan"), "b": float("inf")}
    )

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = output(home, "models", "show", "nan", "--json")
    assert json.loads(text, parse_constant=refuse)["bits_per_byte"] == {"a": None, "b": None}


def test_a_model_is_shown_with_identity_scores_licences_and_hashes(home: Path) -> None:
    text = output(home, "models", "show", "notes")
    about = ("notes\n", "ID ", "aaaa00002222bbbb-0", "3,377,920", "layers 2, heads 2, width 16", "Of notes.")
    made = ("25 steps", "50.0% of 200 questions", "CC0-1.0", "not measured", "  model.safetensors\n")
    for words in (*about, *made):
        assert words in text, words
    assert "parakeet chat --model aaaa00002222bbbb-0" in text
    # Of one name it is the one that a chat opens.
    assert "cccc00002222bbbb-0" in output(home, "models", "show", "demo")
    assert "theirs" in output(home, "models", "show", "theirs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aaaa", "Several models fit 'aaaa': notes (aaaa00002, "),
        ("dem0", "No model is called 'dem0'. There are: "),
        ("", "No model is called ''."),
        ("../demo", "No model is called"),
    ],
)
def test_a_name_that_fits_none_or_several_is_answered_with_what_there_is(home: Path, name: str, message: str) -> None:
    for command in ("show", "rm"):
        assert message in refusal(home, "models", command, name)


def test_removing_asks_says_what_refers_and_never_guesses(home: Path) -> None:
    assert "Several models fit 'demo': demo (cccc00002" in refusal(home, "models", "rm", "--yes", "demo")
    result = run(home, "models", "rm", "cccc")
    assert result.exit_code == 1
    assert "demo is the model that `parakeet chat` opens." in result.output
    assert result.output.endswith("Confirm with --yes.\n")
    assert (home / "releases" / "cccc00002222bbbb-0").is_dir()


def test_when_the_latest_goes_a_chat_opens_the_newest_that_is_left(home: Path) -> None:
    assert "`parakeet chat` now opens notes" in output(home, "models", "rm", "--yes", "cccc")
    assert latest_release(home).resolve().name == "aaaa00002222bbbb-0"
    assert "now opens" not in output(home, "models", "rm", "--yes", "theirs")
    assert "now opens demo" in output(home, "models", "rm", "--yes", "notes")
    output(home, "models", "rm", "--yes", "demo")
    assert not latest_release(home).is_symlink()
    assert "Make one with: parakeet build" in refusal(home, "models")


def test_nothing_is_removed_while_something_is_built(home: Path) -> None:
    (home / ".locks").mkdir()
    with FileLock(home / ".locks" / "release.lock"):
        assert "Something is being built (release)" in refusal(home, "models", "rm", "--yes", "notes")
    output(home, "models", "rm", "--yes", "notes")


def test_verify_checks_the_latest_release_a_model_or_a_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = home / "releases" / "cccc00002222bbbb-0"
    assert output(home, "verify").startswith(f"{latest}: ")
    assert "aaaa00002222bbbb-0: " in output(home, "verify", "notes")
    assert output(home, "verify", str(latest)) == output(home, "verify")
    monkeypatch.chdir(latest.parent)
    assert output(home, "verify", latest.name).startswith(f"{latest.name}: ")
    assert "No model is called 'nothing'" in refusal(home, "verify", "nothing")
    (latest / "config.json").write_text("{}", encoding="utf-8")
    assert "config.json has sha256" in refusal(home, "verify")
    assert "Make one with: parakeet build" in refusal(home / "empty", "verify")


def test_every_folder_of_models_is_looked_at() -> None:
    assert {stage.folder or stage.name for stage in STAGES if stage.is_model} == {"releases", "original_model"}


def test_on_a_terminal_the_question_is_asked(home: Path) -> None:
    command = f"import sys; from parakeet.cli import main; main({['models', 'rm', 'notes']!r})"
    for answer, words in (("n", "Nothing was removed."), ("", "Nothing was removed."), ("y", "Removed notes, ")):
        terminal = pexpect.spawn(
            sys.executable,
            ["-c", command],
            env={**os.environ, "PARAKEET_HOME": str(home)},
            encoding="utf-8",
            timeout=120,
        )
        terminal.expect(r"Remove notes \(.*\)\? \[y/N\]: ")
        terminal.sendline(answer)
        terminal.expect(words)
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == (0 if answer == "y" else 1)
