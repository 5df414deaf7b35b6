"""Which model a chat opens: by name, by folder, from a run that may still train; and what it says of the tokens."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock

from parakeet.chat.models import ModelOpener, OpenedModel, find_release, model_names, render_models
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, identity, session_header, session_path
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.generation.kernels import SUMS
from parakeet.release.listing import model_folder
from parakeet.release.verify import open_release
from parakeet.training import checkpoint
from parakeet.training.job import LOCK_FILE

from .scripted_sessions import drain
from .tiny_models import tiny_model, tiny_tokenizer, write_release, write_run, write_step

KEY = "abcd1234abcd1234"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three imported models, the latest release, and a run with checkpoints at steps 10 and 20."""
    root = tmp_path_factory.mktemp("models") / "home"
    for seed, name in enumerate(("tiny", "tiny-long", "other"), start=1):
        write_release(root / "imported" / f"{name}-folder", name, seed)
    write_release(root / "releases" / "e2f4-0", "built", seed=7)
    (root / "releases" / "latest").symlink_to("e2f4-0")
    write_run(root, KEY, (10, 20))
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` that a test may change. Its paths are not those that the run began with."""
    return Path(shutil.copytree(built, tmp_path / "home", symlinks=True))


def parakeet(root: Path, *arguments: str, stdin: str | bytes = "", **variables: str) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env={"PARAKEET_HOME": str(root), **variables})


@pytest.mark.parametrize(
    ("name", "folder"),
    [("tiny", "tiny-folder"), ("tiny-l", "tiny-long-folder"), ("o", "other-folder"), ("other-f", "other-folder")],
)
def test_a_name_or_its_only_beginning_opens_a_model(built: Path, name: str, folder: str) -> None:
    assert find_release(built, name) == built / "imported" / folder
    assert find_release(built, str(built / "imported" / folder)) == built / "imported" / folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t", r"^Several models fit 't': tiny-long \(.*\), tiny \(.*\)\. Give the ID\."),
        ("nothing", r"No model is called 'nothing'\. There are: .*All: parakeet models"),
        ("", "No model is called ''"),
        ("a\x1b[31m", r"No model is called 'a\\x1b\[31m'"),
        ("x" * 300, "No model is called"),
    ],
)
def test_a_name_that_is_none_or_several_is_refused(built: Path, name: str, message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        find_release(built, name)


def test_a_folder_that_is_no_release_is_named(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="is not a release: it has no SHA256SUMS"):
        find_release(built, str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ParakeetError, match=r"notes\.txt is not a release: it is a file"):
        find_release(built, str(tmp_path / "notes.txt"))


def test_a_path_to_nothing_says_so_and_knows_names_of_the_hub(built: Path, tmp_path: Path) -> None:
    for find in (find_release, model_folder):
        with pytest.raises(ParakeetError, match=r"There is no file or folder /.*/m\.gguf\.$"):
            find(built, str(tmp_path / "m.gguf"))
        for name in ("me/bird", "hf.co/me/bird", "https://huggingface.co/me/bird"):
            with pytest.raises(ParakeetError, match=f"There is no file or folder {name}. If it is a model of the Hug"):
                find(built, name)


def gguf(name: str) -> bytes:
    """The head of a GGUF file, as far as its name."""
    text = name.encode()
    key = len("general.name").to_bytes(8, "little") + b"general.name" + (8).to_bytes(4, "little")
    return b"GGUF" + bytes(20) + key + len(text).to_bytes(8, "little") + text + bytes(100)


FOREIGN: list[tuple[str, dict[str, str | bytes], str]] = [
    ("a b.gguf", {"a b.gguf": gguf("else")}, r"is a GGUF file, .* llama-cli -m '.*/a b\.gguf', or ollama create, from"),
    ("m.gguf", {"m.gguf": gguf("tiny"), "m.Modelfile": "FROM m.gguf"}, r"ollama create m -f .*/m\.Modelfile\. It was "
     r"exported from tiny: parakeet chat --model tiny-folder"),
    ("odd", {"odd": b"GGUF" + b"general.name\x08\0\0\0" + b"\xff" * 8}, "is a GGUF file"),
    ("hf", {"hf/config.json": '{"model_type": "mpt"}', "hf/SHA256SUMS": ""}, r"\('text-generation', '.*/hf'\)\.$"),
    ("hf", {"hf/config.json": '{"model_type": "parakeet", "auto_map": {}}'}, r"True\), which runs the code"),
    ("x.pth", {"x.pth": "PK"}, r"convert it with: parakeet import .*/x\.pth"),
    ("pytorch_model.bin", {"pytorch_model.bin": ""}, "a file of weights alone"),
    ("Modelfile", {"Modelfile": "FROM x"}, "ollama create NAME -f .*/Modelfile"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files", "message"), FOREIGN)
def test_a_model_of_another_program_is_refused_with_what_opens_it(
    built: Path, tmp_path: Path, name: str, files: dict[str, str | bytes], message: str
) -> None:
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for find in (find_release, model_folder):
        with pytest.raises(ParakeetError, match=message):
            find(built, str(tmp_path / name))


def test_an_export_of_a_model_here_is_named_by_its_manifest(root: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "mpt"}', encoding="utf-8")
    for folder in (tmp_path / "hf", root / "imported" / "other-folder"):
        (folder / "training_manifest.json").write_text('{"recipe": {"name": "other"}}', encoding="utf-8")
    with pytest.raises(ParakeetError, match="It was exported from other: parakeet chat --model other-folder"):
        find_release(root, str(tmp_path / "hf"))


@pytest.mark.parametrize("command", [("chat", "-m", "hi", "--model"), ("trace", "hi", "--model"), ("verify",)])
def test_every_command_refuses_another_programs_model(built: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "other.gguf"
    file.write_bytes(gguf("other"))
    result = parakeet(built, *command, str(file))
    assert result.exit_code == 1
    assert "It was exported from other: parakeet chat --model other-folder" in result.stderr
    assert "ollama run llama3.2:1b" in parakeet(built, *command, "llama3.2:1b").stderr


def test_of_two_models_of_one_name_the_newer_one_opens(root: Path) -> None:
    newer = write_release(root / "imported" / "again", "tiny", 9)
    os.utime(root / "imported" / "tiny-folder", (1, 1))
    assert find_release(root, "tiny") == newer
    assert find_release(root, "tiny-folder") == root / "imported" / "tiny-folder"


def test_an_edited_model_card_is_no_reason_to_refuse(root: Path) -> None:
    folder = root / "imported" / "tiny-folder"
    for change in ("edited", "removed"):
        if change == "edited":
            (folder / "README.md").write_text("mine", encoding="utf-8")
        else:
            (folder / "README.md").unlink()
        assert parakeet(root, "chat", "--model", "tiny", "hi").exit_code == 0
        assert parakeet(root, "verify", str(folder)).exit_code == 1
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(ParakeetError, match="was changed after the release was made"):
            open_release(folder)
        write_release(root / "spare" / name, "tiny")
        shutil.copy(root / "spare" / name / name, folder / name)


def same_weights(model: object, seed: int) -> bool:
    return torch.equal(model._rows, tiny_model(seed).embedding.weight)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "step"), [("abcd", 20), (KEY, 20), ("abcd@10", 10), ("a@20", 20), ("ab@step-00000010", 10)]
)
def test_a_checkpoint_of_a_run(built: Path, text: str, step: int) -> None:
    opened = ModelOpener(built).open(run=text)
    assert opened.release.name == f"run abcd1234@{step}"
    assert opened.release.generation.max_tokens == 40
    assert same_weights(opened.engine.model, step)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abcd@15", "has no checkpoint of step 15. It has: 10, 20."),
        ("zzzz", "No run begins with 'zzzz'"),
        ("abcd@", "is not a run: give KEY or KEY@STEP"),
        ("@10", "is not a run: give KEY or KEY@STEP"),
        ("abcd@ten", "is not a run: give KEY or KEY@STEP"),
    ],
)
def test_a_run_that_is_none_is_refused(built: Path, text: str, message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        ModelOpener(built).open(run=text)


def test_a_run_without_a_checkpoint_says_how_far_it_is(root: Path) -> None:
    write_run(root, "eeee", ())
    with pytest.raises(ParakeetError, match=r"has no checkpoint yet \(it is at step 0 of 100\)"):
        ModelOpener(root).open(run="eeee")


def test_a_run_that_is_trained_is_read_and_nothing_else(root: Path) -> None:
    run = root / "training_runs" / KEY
    with FileLock(run / LOCK_FILE):
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert parakeet(root, "chat", "--run", "abcd", "hi").exit_code == 0
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(root: Path) -> None:
    run = root / "training_runs" / KEY
    with (run / "step-00000020" / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"damaged")
    opened = ModelOpener(root).open(run="abcd")
    assert opened.release.name == "run abcd1234@10"
    (note,) = opened.notes
    assert "was changed after it was written. Using the checkpoint before it." in note
    with pytest.raises(ParakeetError, match="was changed after it was written"):
        ModelOpener(root).open(run="abcd@20")
    (run / "step-00000010" / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ParakeetError, match="No checkpoint of the run abcd1234abcd1234 is usable"):
        ModelOpener(root).open(run="abcd")


def test_a_checkpoint_that_the_trainer_removes_meanwhile_is_looked_for_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = root / "training_runs" / KEY
    load, seen = checkpoint.load_checkpoint_model, list[str]()

    def remove_it_first(path: Path, *rest: object) -> object:
        seen.append(path.name)
        if len(seen) == 1:
            write_step(run, 30)
            shutil.rmtree(path)
        return load(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "load_checkpoint_model", remove_it_first)
    opened = ModelOpener(root).open(run="abcd")
    assert seen == ["step-00000020", "step-00000030"]
    assert opened.release.name == "run abcd1234@30"
    assert opened.notes == []
    assert same_weights(opened.engine.model, 30)


def test_the_models_inside_a_chat(built: Path) -> None:
    opener = ModelOpener(built)
    tiny = opener.open_any("tiny").release
    assert tiny.name == "tiny"
    assert opener.open_any("abcd").release.name == opener.open_any("run abcd").release.name == "run abcd1234@20"
    assert opener.open_any("abcd@10").release.name == "run abcd1234@10"
    with pytest.raises(ParakeetError, match="No model is called"):
        opener.open_any("zzzz")
    table = render_models(built, tiny, 80)
    assert max(map(len, table.splitlines())) <= 80
    assert [line[0] == "*" for line in table.splitlines() if " tiny " in line] == [True]
    assert "run at step 20" in table
    assert sorted(name for name, _ in model_names(built)) == ["abcd1234", "other", "tiny", "tiny-long"]


def test_the_environment_names_a_model_and_the_command_line_wins(built: Path) -> None:
    def model(*options: str) -> str:
        done = parakeet(built, "chat", "--json", *options, "hi", PARAKEET_MODEL="other")
        return str(json.loads(done.stdout.splitlines()[0])["model"])

    assert (model(), model("--model", "tiny"), model("--run", "abcd")) == ("other", "tiny", "run abcd1234@20")
    assert json.loads(parakeet(built, "chat", "--json", "hi").stdout.splitlines()[0])["model"] == "built"
    assert "PARAKEET_MODEL" in parakeet(built, "chat", "--help").stdout


def test_a_session_with_two_models_and_raw_texts_replays(root: Path) -> None:
    opener, path = ModelOpener(root), session_path(root, "both")
    first, second, third = opener.open("tiny"), opener.open(run="abcd@10"), opener.open("other")

    def header(opened: OpenedModel) -> dict[str, object]:
        return session_header(opened.engine, opened.release.name, opened.release.weights_sha256)

    # Greedy: the likeliest token of noise is never the end of a turn, so no reply is empty.
    settings = replace(first.release.generation, temperature=0.0)
    talk = Session(first.engine, settings, "", SessionLog.create(path, header(first)))

    drain(talk.reply("One?"))
    talk.switch(second.engine, header(first), header(second))
    drain(talk.reply("Two?"))
    talk.raw = True
    for message in ("Once upon", "And"):
        drain(talk.reply(message))
    drain(talk.continue_reply())
    drain(talk.retry())
    drain(talk.edit(" A text "))
    talk.switch(third.engine, header(second), header(third))
    talk.raw = False
    drain(talk.reply("Three?"))
    talk.close()
    kinds = [json.loads(line).get("event") for line in path.read_text("utf-8").splitlines()]
    raw = ["complete", "complete", "continue", "retry", "edit"]
    assert kinds == [None, "reply", "model", "reply", *raw, "model", "reply"]
    done = parakeet(root, "chat", "--replay", str(path))
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[-1] == "All 8 replies are identical."
    assert "other conditions" not in done.stdout
    # With a model of one's own choice, all replies are its; without the models, those that are left.
    asked = parakeet(root, "chat", "--replay", str(path), "--model", "tiny")
    assert asked.exit_code == 1
    assert asked.stdout.splitlines()[0] == "Reply 1: identical"
    shutil.rmtree(root / "imported" / "other-folder")
    less = parakeet(root, "chat", "--replay", str(path))
    assert less.stdout.splitlines()[-1] == "1 of 8 replies differ."
    assert "the model was 'other', now 'run abcd1234@10'" in less.stdout


@pytest.fixture
def _threads() -> Iterator[None]:
    """The chat sets the number of this process's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("model", [(), ("--model", "other"), ("--run", "abcd@10")])
@pytest.mark.parametrize(
    "turns",
    [
        [("--dtype", "bf16")],  # `auto` is fp32 for so small a model
        [("--dtype", "bf16"), ("--threads", "2")],
        [(), ("--dtype", "bf16"), ("--dtype", "fp32")],
        [("--dtype", "bf16", "--device", "cpu"), ()],
    ],
)
def test_a_replay_runs_each_reply_as_it_was_recorded(
    root: Path, model: tuple[str, ...], turns: list[tuple[str, ...]]
) -> None:
    for number, options in enumerate(turns):
        done = parakeet(root, "chat", "--session", "talk", *model, *options, "--seed", str(number), f"Number {number}?")
        assert done.exit_code == 0, done.output
    path = session_path(root, "talk")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    recorded = [line["dtype"] for line in lines if line.get("event", "model") == "model"]
    assert len(recorded) == len(turns)
    for asked in ((), model):
        replayed = parakeet(root, "chat", "--replay", str(path), *asked)
        assert replayed.exit_code == 0, replayed.output
        assert "other conditions" not in replayed.stdout
        assert "identical" in replayed.stdout.splitlines()[-1]
    # What the user asks for comes first, and is reported.
    other = parakeet(root, "chat", "--replay", str(path), "--dtype", "fp32" if "bf16" in recorded else "bf16")
    assert f"the dtype was '{'bf16' if 'bf16' in recorded else 'fp32'}'" in other.stdout


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"dtype": "fp8"}, "the dtype was 'fp8', now 'fp32'"),
        ({"dtype": None}, "the dtype was None, now 'fp32'"),
        ({"dtype": {"a": [1]}}, "the dtype was {'a': [1]}, now 'fp32'"),
        ({"device": "cuda:77", "dtype": "bf16"}, "the device was 'cuda:77', now 'cpu'"),
        ({"device": []}, "the device was [], now "),
        ({"threads": 0}, "the number of threads was 0, now 1"),
        ({"threads": 10**30}, "the number of threads was 1000"),
        ({"threads": "2"}, "the number of threads was '2', now 1"),
        ({"cache_dtype": []}, "the dtype of the cache was [], now 'fp32'"),
        ({"cache_dtype": "fp8"}, "the dtype of the cache was 'fp8', now 'fp32'"),
        ({"kernels": "yes"}, "the use of compiled kernels was 'yes', now False"),
        ({"kernel_sums": 0}, "the order of the kernels' sums was 0, now "),
    ],
)
def test_conditions_that_cannot_be_had_are_reported_and_the_replay_goes_on(
    root: Path, changes: dict[str, object], reported: str
) -> None:
    assert parakeet(root, "chat", "--session", "talk", "--temperature", "0", "Hello").exit_code == 0
    path = session_path(root, "talk")
    header, event = path.read_text("utf-8").splitlines()
    path.write_text(json.dumps(json.loads(header) | changes) + "\n" + event + "\n")
    done = parakeet(root, "chat", "--replay", str(path))
    assert reported in done.stdout.splitlines()[0], done.output
    assert done.stdout.splitlines()[-1] in ("The reply is identical.", "1 of 1 replies differ.")


@pytest.mark.usefixtures("_threads")
def test_a_session_of_a_version_without_kernels_replays_without_them(root: Path) -> None:
    for opener in (ModelOpener(root, dtype="bf16"), ModelOpener(root)):
        opened = opener.open("tiny")
        header = session_header(opened.engine, opened.release.name, opened.release.weights_sha256)
        again = opener.open_recorded(header)
        assert again is not None
        assert again.engine.kernels == opened.engine.kernels
        assert identity(header)["kernel_sums"] == (SUMS if opened.engine.kernels else None)
        del header["kernel_sums"]
        assert identity(header)["kernel_sums"] == (1 if opened.engine.kernels else None)
        del header["kernels"]
        old = opener.open_recorded(header)
        assert old is not None
        assert not old.engine.kernels


@pytest.mark.usefixtures("_threads")
def test_what_slows_the_chat_down_is_said_beside_the_replies(built: Path) -> None:
    asked = parakeet(built, "chat", "--threads", "65", "--stats", "--temperature", "0", "hi")
    assert "65 threads on " in asked.stderr
    assert "Running on cpu in fp32 (the weights are small), 65 threads (as asked)" in asked.stderr
    plain = parakeet(built, "chat", "--threads", "1", "--temperature", "0", "hi")
    assert (plain.stdout, plain.stderr) == (asked.stdout, "Reply cut at 40 tokens (max_tokens).\n")


@pytest.mark.parametrize("model", [{"model": "tiny"}, {"run": "abcd"}], ids=["release", "run"])
def test_without_prompt_lookup_nothing_is_drafted(built: Path, model: dict[str, str]) -> None:
    opened = model.get("model"), model.get("run")
    assert ModelOpener(built).open(*opened).engine.prompt_lookup
    assert not ModelOpener(built, prompt_lookup=False).open(*opened).engine.prompt_lookup
    name = [f"--{option}={value}" for option, value in model.items()]
    told = []
    for options in ((), ("--no-prompt-lookup",)):
        done = parakeet(built, "chat", "--json", "--seed=1", *name, *options, "ab ab ab ab ab")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        told.append([event for event in events if event["event"] in ("text", "note")])
        (end,) = (event for event in events if event["event"] == "end")
        assert 0 <= end["accepted_tokens"] <= end["drafted_tokens"]
    assert end["drafted_tokens"] == 0
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("hi", "-m", "hi"), "Give the message as PROMPT or with -m, not both"),
        (("--model", "tiny", "--run", "abcd", "hi"), "--model and --run both name a model"),
        (("--raw", "--system", "x", "hi"), "--raw has no system message"),
        (("--paragraphs", "hi"), "--paragraphs divides standard input"),
        (("--session", "x", "--no-history", "hi"), "--session records the conversation and --no-history does not"),
        (("--replay", "x", "hi"), "--replay takes"),
        (("--replay", "x", "--raw"), "--replay takes"),
        (("--replay", "x", "--paragraphs"), "--replay takes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(built: Path, options: tuple[str, ...], message: str) -> None:
    done = parakeet(built, "chat", *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_message_in_every_place_it_can_come_from(built: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("Two\n\nlines", encoding="utf-8")

    def sent(*options: str, stdin: str = "") -> list[str]:
        """The messages that were recorded. Greedy, so that no reply is empty: an empty one is not recorded."""
        session = f"s{len(list(built.glob('sessions/*')))}"
        done = parakeet(
            built, "chat", "--model", "tiny", "--temperature", "0", "--session", session, *options, stdin=stdin
        )
        assert (done.exit_code, [line for line in done.stderr.splitlines() if "Reply cut" not in line]) == (0, [])
        lines = (built / "sessions" / f"{session}.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["message"] for line in lines[1:]]

    assert sent("Who are you?") == sent("Who", "are", "you?") == sent("-m", "Who are you?") == ["Who are you?"]
    assert sent("-m", "-", stdin="One\n\nmessage\n") == sent("-", stdin="One\n\nmessage\n") == ["One\n\nmessage"]
    assert (
        sent("What is this?", stdin="a\nb\n") == sent("-m", "What is this?", stdin="a\nb") == ["What is this?\n\na\nb"]
    )
    assert sent(f"@{tmp_path}/two.txt") == sent("-m", f"@{tmp_path}/two.txt") == ["Two\n\nlines"]
    assert sent("--paragraphs", stdin="a\nb\n\nc") == ["a\nb", "c"]
    assert sent(stdin="a\nb\n\nc") == ["a", "b", "c"]
    assert sent("--raw", " Once ") == [" Once "]


def test_tokens_are_listed_with_ids_and_pieces(built: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hi\n", encoding="utf-8")
    listed = '     id  piece\n    104  "h"\n    105  "i"\n2 tokens, 2 bytes\n'
    assert parakeet(built, "tokens", "hi").stdout == listed
    assert parakeet(built, "tokens", stdin="hi\n").stdout == listed
    assert parakeet(built, "tokens", "-", stdin="hi").stdout == listed
    assert parakeet(built, "tokens", f"@{tmp_path}/text", stdin="not this").stdout == listed
    assert parakeet(built, "tokens", "--run", "abcd", "hi").stdout == listed
    strange = parakeet(built, "tokens", 'é"\\\n\x1b\u202e').stdout
    assert [line.split(maxsplit=1)[1] for line in strange.splitlines()[1:-1]] == [
        *(r'"\xc3"', r'"\xa9"', r'"\""', r'"\\"', r'"\n"', r'"\x1b"', r'"\xe2"', r'"\x80"', r'"\xae"'),
    ]
    for arguments in (("tokens", ""), ("tokens",)):
        done = parakeet(built, *arguments)
        assert (done.exit_code, done.stderr) == (1, "Error: The text is empty: it has no tokens.\n")


@pytest.mark.parametrize("length", [1, 7, 513, 1023])
def test_probabilities_are_those_of_the_training_model(built: Path, length: int) -> None:
    text = ("Two and two is four. é" * 60)[:length]
    done = parakeet(built, "tokens", "--probs", "--json", "--model", "tiny", stdin=text)
    assert done.exit_code == (1 if length == 1023 and len(text.encode()) > 1023 else 0), done.output
    if done.exit_code:
        assert "the model's context is 1,024: shorten it" in done.stderr
        return
    found = json.loads(done.stdout)
    tokenizer, model = tiny_tokenizer(), tiny_model(1)
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
    with torch.no_grad():
        chances = model.logits(model(ids, torch.zeros_like(ids)))[0].log_softmax(1)
    expected = [chances[place, token_id] for place, token_id in enumerate(ids[0, 1:])]
    torch.testing.assert_close(
        torch.tensor([token["probability"] for token in found["tokens"]]),
        torch.stack(expected).exp(),
        rtol=1e-4,
        atol=0,
    )
    assert found["bits"] == pytest.approx(-sum(map(float, expected)) / 0.6931471805599453, rel=1e-4)
    assert found["bytes"] == len(text.encode())
    assert "".join(chr(int(token["hex"], 16)) for token in found["tokens"]).encode("latin-1") == text.encode()


def test_without_probabilities_torch_is_not_imported(built: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from parakeet.cli import main\n"
        "done = CliRunner().invoke(main, ['tokens', 'hi']); print(done.exit_code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PARAKEET_HOME": str(built)}, timeout=300
    )
    assert done.stdout == "0 False\n", done.stderr
