"""`parakeet release`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.artifact import Artifact
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.release.history import HISTORY_LOST, decisions, history_file
from parakeet.release.pointers import find_opened

from .conftest import Releases

Run = Callable[..., str]


@pytest.fixture
def run(store: Releases) -> Run:
    def invoke(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, ["release", *arguments], env={"PARAKEET_HOME": str(store.root)})
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.output

    return invoke


def refuse(store: Releases, reason: str) -> Artifact:
    release = store.add()
    with pytest.raises(ParakeetError):
        store.promote(release, reason)
    return release


def opened(store: Releases) -> str:
    found = find_opened(store.root)[0]
    assert found is not None
    return found.name


def test_the_history_as_a_table_and_as_json(store: Releases, run: Run) -> None:
    assert "parakeet build" in run(status=1)
    first, notes, bad = store.promoted(), store.promoted("notes"), refuse(store, "It is [bold]worse[/bold].\x1b[2J")
    second = store.promoted()
    run("rollback", "--reason", "It repeats itself.")
    with history_file(store.root).open("a", encoding="utf-8") as file:
        file.write('{"action": "promo')
    head, *lines = run("list").splitlines()
    assert head.split() == ["TIME", "RELEASE", "RECIPE", "DECISION", "BITS/BYTE", "WHY"]
    assert [(line[:2].strip(), *line[2:].split()[2:5]) for line in lines[:5]] == [
        ("**", first.path.name, "demo", "promoted"),
        ("*", notes.path.name, "notes", "promoted"),
        ("", bad.path.name, "demo", "refused"),
        ("", second.path.name, "demo", "promoted"),
        ("", second.path.name, "demo", "rolled"),
    ]
    assert "1.250" in lines[0]
    assert "It is [bold]worse[/bold]." in lines[2]
    assert "\x1b" not in "".join(lines)
    assert "line 6 is torn" in lines[5]
    document = json.loads(run("--json"))
    assert [one["action"] for one in document["decisions"]] == [
        *("promoted", "promoted", "refused", "promoted", "rolled_back"),
    ]
    assert document["promoted"] == {"demo": first.path.name, "notes": notes.path.name}
    assert document["opened"] == first.path.name
    assert len(document["messages"]) == 1


def test_one_release_with_its_reasons_and_figures(store: Releases, run: Run) -> None:
    first, bad = store.promoted(), refuse(store, "It fell.")
    shown = run("show", bad.path.name)
    for part in ("state: refused", "It fell.", first.path.name, "1.25"):
        assert part in shown
    assert json.loads(run("show", bad.path.name, "--json"))["decisions"][0]["previous"] == first.path.name
    assert "No decision on it" in run("show", store.add().path.name)


def test_promotion_by_hand_needs_a_reason_that_is_kept(store: Releases, run: Run) -> None:
    good, bad, unjudged = store.promoted(), refuse(store, "Bad."), store.add()
    for release in (bad, unjudged):
        assert "--force REASON" in run("promote", release.path.name, status=1)
        assert "needs a reason" in run("promote", release.path.name, "--force", "  ", status=1)
    assert opened(store) == good.path.name
    for release in (bad, unjudged):
        assert "`parakeet chat` opens it" in run("promote", release.path.name, "--force", "I like it.")
        assert opened(store) == release.path.name
    assert "forced" in run()
    assert "I like it." in run("show", bad.path.name)
    assert "is the promoted release of demo again" in run("rollback", "demo", "--reason", "No.")
    assert opened(store) == bad.path.name
    assert "--force REASON" in run("promote", unjudged.path.name, status=1)


def test_a_chat_is_given_the_model_of_another_recipe(store: Releases, run: Run) -> None:
    demo, notes = store.promoted(), store.promoted("notes")
    run("promote", "notes")
    assert opened(store) == notes.path.name
    run("promote", "demo")
    assert opened(store) == demo.path.name
    assert [one["action"] for one in json.loads(run("--json"))["decisions"]] == ["promoted", "promoted"]


def test_the_promoted_release_of_an_earlier_parakeet_is_listed(store: Releases, run: Run) -> None:
    release = store.add()
    (store.folder / "latest").symlink_to(release.path.name)
    assert "** " in run()
    assert "It was promoted before there were gates." in run()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("rollback",), 2, "Missing option '--reason'"),
        (("rollback", "--reason", "x"), 1, "no promoted release yet"),
        (("rollback", "demo", "--reason", ""), 1, "say why"),
        (("rollback", "../demo", "--reason", "x"), 1, "No release of recipe ../demo is promoted"),
        (("promote", "nothing"), 1, "parakeet build"),
        (("show", "nothing"), 1, "parakeet build"),
        (("list",), 1, "parakeet build"),
    ],
)
def test_mistakes_are_one_message(run: Run, arguments: tuple[str, ...], status: int, message: str) -> None:
    assert message in run(*arguments, status=status)


LOST: dict[str, Callable[[Path], object]] = {
    "removed": lambda latest: None,
    "a file": lambda latest: latest.write_text("promoted/demo"),
    "a loop": lambda latest: latest.symlink_to("latest"),
    "of an earlier Parakeet, gone": lambda latest: latest.symlink_to("gone-0"),
    "of a recipe that has none": lambda latest: latest.symlink_to("promoted/none"),
}


@pytest.mark.parametrize("how", LOST)
def test_rollback_takes_back_what_a_chat_opens_though_the_pointer_is_lost(store: Releases, run: Run, how: str) -> None:
    first, second = store.promoted(), store.promoted()
    latest = store.folder / "latest"
    latest.unlink()
    LOST[how](latest)
    assert opened(store) == second.path.name
    assert f"{second.path.name} is rolled back" in run("rollback", "--reason", "No.")
    assert opened(store) == first.path.name
    if how != "of a recipe that has none":
        assert latest.resolve() == first.path.resolve()


@pytest.mark.parametrize("target", ["../nowhere", "demo", "/nowhere", "../../elsewhere/nowhere"])
def test_rollback_of_a_pointer_that_leads_nowhere_goes_by_the_history(store: Releases, run: Run, target: str) -> None:
    first, second = store.promoted(), store.promoted()
    link = store.folder / "promoted" / "demo"
    link.unlink()
    link.symlink_to(target)
    assert opened(store) == second.path.name
    assert f"{second.path.name} is rolled back" in run("rollback", "--reason", "No.")
    assert store.pointers() == {"latest": first.path.name, "demo": first.path.name}


@pytest.mark.parametrize("place", ["latest", "promoted/demo"])
def test_a_folder_in_place_of_a_pointer_is_named_and_nothing_moves(store: Releases, run: Run, place: str) -> None:
    store.promoted()
    second = store.promoted()
    folder = store.folder / place
    folder.unlink()
    folder.mkdir()
    assert opened(store) == second.path.name
    before = run("--json")
    for command in (("rollback", "--reason", "No."), ("promote", second.path.name, "--force", "Yes.")):
        said = run(*command, status=1)
        assert f"{folder} is a folder." in said
        assert f"mv {folder} {folder}.old" in said
    assert run("--json") == before
    folder.rename(f"{folder}.old")
    assert f"{second.path.name} is rolled back" in run("rollback", "--reason", "No.")


def test_a_lost_history_is_said_and_blesses_nothing(store: Releases, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good = store.promoted()
    refuse(store, "Bad.")
    assert "lost" not in run()
    history_file(store.root).unlink()
    printed = run()
    assert "before there were gates" not in printed
    assert "The history was lost: when, why and by whom it was promoted is not known." in printed
    monkeypatch.setenv("PARAKEET_HOME", str(store.root))
    assert "The history was lost" in CliRunner().invoke(main, ["status"]).output
    store.promote(good)
    assert decisions(store.root)[0][0].reasons == (HISTORY_LOST,)


@pytest.mark.parametrize("has_earlier", [False, True])
@pytest.mark.parametrize("fault", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_a_damaged_promoted_release_is_said_everywhere(
    store: Releases, run: Run, fault: str, has_earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(store.root))
    for _ in range(1 + has_earlier):
        promoted = store.promoted()
    file = promoted.path / fault
    if fault == "config.json":
        file.write_text(f"{file.read_text()} ")
    else:
        file.unlink()
    for command in (["status"], ["models"], ["release"], ["chat", "Hello"]):
        result = CliRunner().invoke(main, command)
        said = f"{result.output} {result.exception or ''}"
        assert promoted.path.name in said, command
        assert ("parakeet release rollback demo" in said) == has_earlier, (command, said)
    if has_earlier:
        run("rollback", "--reason", "damaged")
        assert opened(store) == store.made[0].path.name
