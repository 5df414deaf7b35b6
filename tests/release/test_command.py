"""`parakeet release`."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from parakeet.artifact import Artifact
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.release.history import history_file
from parakeet.release.promotion import find_opened

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
