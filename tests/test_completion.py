"""`parakeet completion`: the script in a real bash, and what it offers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from parakeet.stages import STAGES

PARAKEET = Path(sys.executable).with_name("parakeet")
VARIABLE = "_PARAKEET_COMPLETE"

pytestmark = pytest.mark.skipif(not PARAKEET.exists(), reason="the command is not installed beside this Python")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    for folder in ("training_runs/ba1c68e5f89493a2", "training_runs/.hidden", "sessions"):
        (root / folder).mkdir(parents=True)
    for name in ("lesson.jsonl", "lesson-2.jsonl", ".lesson.jsonl.lock"):
        (root / "sessions" / name).touch()
    models = {"releases/aaaa-0": "notes", "releases/bbbb-0": "demo", "releases/cccc-0": "demo", "imported/mine": "mine"}
    for folder, name in models.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "generation_config.json").write_text(f'{{"name": "{name}"}}', encoding="utf-8")
    (root / "releases" / "broken-0").mkdir()
    (root / "releases" / "broken-0" / "generation_config.json").write_text("{", encoding="utf-8")
    (root / "releases" / "latest").symlink_to("cccc-0")
    return root


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PARAKEET_HOME": str(home), "PATH": f"{PARAKEET.parent}{os.pathsep}{os.environ['PATH']}"}


def offered(home: Path, *words: str) -> list[str]:
    """What click's protocol for bash answers when the last word is being typed."""
    line = {"COMP_WORDS": "\n".join(("parakeet", *words)), "COMP_CWORD": str(len(words)), VARIABLE: "bash_complete"}
    finished = subprocess.run([PARAKEET], env=environment(home) | line, capture_output=True, text=True, timeout=300)
    assert finished.stderr == ""
    return finished.stdout.split()


def plain(*values: str) -> list[str]:
    return [f"plain,{value}" for value in values]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mod",), plain("models")),
        (("models", "show", ""), plain("bbbb-0", "cccc-0", "mine", "notes")),
        (("models", "rm", "no"), plain("notes")),
        (("verify", "mi"), ["file,mi", *plain("mine")]),
        (("sessions", "show", "les"), plain("lesson", "lesson-2")),
        (("sessions", "rm", "lesson", "lesson-"), plain("lesson-2")),
        (("sessions", "export", ""), plain("lesson", "lesson-2")),
        (("runs", ""), plain("ba1c68e5f89493a2")),
        (("compare", "b", "b"), plain("ba1c68e5f89493a2")),
        (("use", "parakeet-3"), ["file,parakeet-3", *plain("parakeet-378m", "parakeet-378m-16h")]),
        (("build", "--recipe", "d"), ["file,d", *plain("demo")]),
        (
            ("build", "--select", ""),
            plain(*sorted([*(stage.name for stage in STAGES), "original_checkpoint", "promotion"])),
        ),
        (("plan", "--set", "training.b"), plain("training.batch_tokens=", "training.beta1=", "training.beta2=")),
        (("build", "--recipe", "nowhere", "--select", ""), []),
        (("completion", ""), plain("bash", "zsh", "fish")),
        (("build", "--he"), plain("--held-out", "--help")),
    ],
)
def test_commands_options_and_names_are_offered(home: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(home, *words) == expected


def test_a_home_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for broken in (file, tmp_path / "nowhere"):
        for words in (("models", "show", ""), ("sessions", "show", ""), ("runs", "")):
            assert offered(broken, *words) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_real_bash_completes_names(home: Path) -> None:
    shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], env=environment(home), encoding="utf-8", timeout=120)
    try:
        shell.sendline(
            "PS1='> '; bind 'set enable-bracketed-paste off'; eval \"$(parakeet completion bash)\"; echo re''ady"
        )
        shell.expect("ready")
        shell.sendline("complete -p parakeet")
        shell.expect("complete .*-F _parakeet_completion parakeet")
        shell.send("parakeet models show no\t")
        shell.expect("show notes ")
        shell.sendcontrol("u")
        shell.send(f"{PARAKEET} runs b\t")
        shell.expect("runs ba1c68e5f89493a2 ")
    finally:
        shell.close(force=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(home: Path, shell: str) -> None:
    script = subprocess.check_output([PARAKEET, "completion", shell], env=environment(home), text=True)
    assert f"{VARIABLE}={shell}_complete" in script


def test_names_need_neither_pydantic_nor_torch(home: Path) -> None:
    code = (
        "import sys\nfrom parakeet.cli import main\n"
        "try:\n    main(prog_name='parakeet')\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'pydantic', 'pyarrow', 'rich', 'dagster'} & set(sys.modules)), file=sys.stderr)"
    )
    for words in ("models\nshow\n", "sessions\nshow\n", "runs\n", "use\n"):
        line = {"COMP_WORDS": f"parakeet\n{words}", "COMP_CWORD": str(words.count("\n")), VARIABLE: "bash_complete"}
        finished = subprocess.run(
            [sys.executable, "-c", code], env=environment(home) | line, capture_output=True, text=True, timeout=300
        )
        assert finished.stdout.count("plain,") > 0
        assert finished.stderr == "\n"
