"""Promotion and rollback: which release is promoted, which one a chat opens, and what the history says of it."""

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from parakeet.artifact import Artifact, point_link
from parakeet.clean import remove_model
from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.release.history import BEFORE_GATES, Decision, decisions, history_file, record
from parakeet.release.listing import find_model, latest_model_folder, list_models
from parakeet.release.pointers import find_incumbent, find_opened, incumbent, promoted_recipes
from parakeet.release.promotion import (
    Judgement,
    compared_with,
    open_in_chat,
    promote,
    promote_by_hand,
    refuse,
    remove_promoted,
    rollback,
)
from parakeet.release.stages import ReleaseStage, beside

from .conftest import Releases


def actions(store: Releases) -> list[tuple[str, str]]:
    return [(decision.action, decision.release) for decision in decisions(store.root)[0]]


def opened(store: Releases) -> str | None:
    found = find_opened(store.root)[0]
    return found.name if found is not None else None


def test_a_release_that_passes_is_promoted_and_a_chat_opens_it(store: Releases) -> None:
    first = store.add()
    assert store.pointers() == {}  # made, and not promoted
    outcome = store.promote(first)
    assert outcome.is_promoted
    assert outcome.messages == ()
    assert store.pointers() == {"latest": first.path.name, "demo": first.path.name}
    second = store.promoted()
    assert latest_model_folder(store.root) == second.path.resolve()
    found = decisions(store.root)[0]
    assert [(one.action, one.release, one.previous) for one in found] == [
        ("promoted", first.path.name, None),
        ("promoted", second.path.name, first.path.name),
    ]
    assert found[1].figures == {"bits_per_byte": 1.25}
    assert found[1].content == second.content
    assert os.readlink(store.folder / "latest") == "promoted/demo"
    assert os.readlink(store.folder / "promoted" / "demo") == f"../{second.path.name}"


def test_a_refused_release_is_kept_and_stays_refused(store: Releases) -> None:
    good, bad = store.promoted(), store.add()
    for _ in range(3):
        with pytest.raises(ParakeetError) as refused:
            store.promote(bad, "It needs 2.1 bits per byte.", "It repeats itself.")
    for part in ("It needs 2.1 bits per byte. It repeats itself.", str(bad.path), f"--model {bad.path.name}"):
        assert part in str(refused.value)
    assert f"{good.path.name} stays the promoted release" in str(refused.value)
    assert f"release promote {bad.path.name} --force REASON" in str(refused.value)
    assert actions(store) == [("promoted", good.path.name), ("refused", bad.path.name)]
    assert store.pointers() == {"latest": good.path.name, "demo": good.path.name}
    # Judged again under other bounds.
    assert store.promote(bad).is_promoted
    assert opened(store) == bad.path.name


def test_a_release_that_fails_a_check_of_its_own_is_refused(store: Releases) -> None:
    """Dagster then skips the gates."""
    good, bad = store.promoted(), store.add()
    verifies = ReleaseStage().checks()[0]
    for release in (bad, bad, good):
        (release.path / "config.json").write_text("{}", encoding="utf-8")
        assert not verifies.run(release, {}, load_recipe("demo")).passed
    assert actions(store) == [("promoted", good.path.name), ("refused", bad.path.name)]
    decision = decisions(store.root)[0][1]
    assert decision.previous == good.path.name
    assert "config.json has sha256" in decision.reasons[0]


def test_gates_that_refuse_again_undo_no_promotion_and_no_rollback(store: Releases) -> None:
    first, second = store.promoted(), store.promoted()
    for release in (first, second):
        assert refuse(store.root, release, store.judged(release, "Too bad.")).action == "promoted"
    rollback(store.root, "demo", "x")
    assert refuse(store.root, second, store.judged(second, "Too bad.")).action == "rolled_back"
    assert len(decisions(store.root)[0]) == 3


def test_a_rollback_lasts(store: Releases) -> None:
    first, second = store.promoted(), store.promoted()
    judged = replace(store.judged(second), incumbent=first.path.name)
    assert compared_with(store.root, second, "demo") == first.path
    decision = rollback(store.root, "demo", "it repeats itself")
    assert (decision.release, decision.previous, decision.reasons) == (
        *(second.path.name, first.path.name),
        ("it repeats itself",),
    )
    for _ in range(2):  # as every later build of the same recipe does
        outcome = promote(store.root, second, judged, takes_chat=True)
        assert not outcome.is_promoted
        assert "was rolled back on" in outcome.messages[0]
        assert "(it repeats itself)" in outcome.messages[0]
    assert opened(store) == first.path.name
    # It is still compared with the same release, so nothing is scored again.
    assert compared_with(store.root, second, "demo") == first.path
    third = store.promoted()
    assert rollback(store.root, "demo", "worse").previous == first.path.name
    assert promote_by_hand(store.root, third, "on second thoughts").action == "forced"
    assert opened(store) == third.path.name
    assert store.promote(third).is_promoted
    assert not promote(store.root, first, replace(judged, release=first.path.name)).is_promoted
    assert opened(store) == third.path.name


def test_a_release_that_is_made_again_is_the_same_model(store: Releases) -> None:
    """With `--force release`, after an edit of its files or under another description."""
    first = store.promoted()
    second = store.promoted()
    rollback(store.root, "demo", "it repeats itself")
    again = store.add(weights_of=second)
    assert compared_with(store.root, again, "demo") == first.path
    outcome = store.promote(again, takes_chat=True)
    assert not outcome.is_promoted
    assert f"{second.path.name} was rolled back on" in outcome.messages[0]
    assert opened(store) == first.path.name
    # The promoted one was damaged: what is made again takes its place, although nothing can be compared with it.
    (first.path / "config.json").write_text("{}", encoding="utf-8")
    whole = store.add(weights_of=first)
    assert compared_with(store.root, whole, "demo") is None
    assert promote(store.root, whole, Judgement(first.path.name, None, (), {})).is_promoted
    assert opened(store) == whole.path.name
    assert "the weights of" in decisions(store.root)[0][-1].reasons[0]
    # Of another recipe it is another model.
    notes = store.add("notes", weights_of=second)
    assert store.promote(notes).is_promoted
    # One that was promoted long ago stays replaced.
    store.promoted()
    assert not store.promote(store.add(weights_of=first)).is_promoted
    # One that was refused is judged again.
    bad = store.add()
    with pytest.raises(ParakeetError):
        store.promote(bad, "Bad.")
    assert store.promote(store.add(weights_of=bad)).is_promoted


def test_nothing_to_roll_back_to_moves_nothing(store: Releases) -> None:
    with pytest.raises(ParakeetError, match=r"No release of recipe demo is promoted.*none yet"):
        rollback(store.root, "demo", "x")
    only = store.promoted()
    with pytest.raises(ParakeetError, match=f"{only.path.name} is the only release of demo"):
        rollback(store.root, "demo", "x")
    with pytest.raises(ParakeetError, match=r"Recipes with a promoted release: demo\."):
        rollback(store.root, "dem0", "x")
    assert opened(store) == only.path.name
    assert len(actions(store)) == 1


def test_two_recipes_do_not_fight(store: Releases) -> None:
    first = store.promoted("demo")
    outcome = store.promote(other := store.add("notes"))
    assert outcome.is_promoted
    assert (
        f"`parakeet chat` goes on with demo; to let it open notes: parakeet release promote {other.path.name}"
        in (outcome.messages[0])
    )
    for recipe in ("demo", "notes", "demo"):
        newest = store.promoted(recipe)
        assert store.pointers()[recipe] == newest.path.name
        assert os.readlink(store.folder / "latest") == "promoted/demo"
    assert first.path.name not in store.pointers().values()
    # Of the recipe that `parakeet use` chose.
    notes = store.promoted("notes", takes_chat=True)
    assert opened(store) == notes.path.name
    open_in_chat(store.root, "demo")
    assert opened(store) == store.pointers()["demo"]
    # Built again with nothing to do, also of the recipe in use, it changes nothing of what a person chose.
    outcome = store.promote(notes, takes_chat=True)
    assert outcome.is_promoted
    assert "goes on with demo" in outcome.messages[0]
    assert opened(store) == store.pointers()["demo"]


def old_store(store: Releases) -> list[Artifact]:
    """Two releases of an earlier Parakeet: no history, and `latest` is a link to the release that was made last."""
    made = [store.add(), store.add()]
    (store.folder / "latest").symlink_to(made[1].path.name)
    return made


def test_a_store_of_an_earlier_parakeet_works_untouched_until_a_promotion(store: Releases) -> None:
    before, latest = old_store(store)
    assert incumbent(store.root, "demo") == latest.path
    assert incumbent(store.root, "notes") is None
    assert latest_model_folder(store.root) == latest.path.resolve()
    states = {model.directory: model.state for model in list_models(store.root)[0]}
    assert states == {before.path: "not judged", latest.path: "promoted"}
    assert os.readlink(store.folder / "latest") == latest.path.name
    # Built again, it is compared with nothing and stays.
    assert compared_with(store.root, latest, "demo") is None
    for _ in range(2):
        assert store.promote(latest, "Gates of today refuse it.").is_promoted
    assert actions(store) == [("promoted", latest.path.name)]
    assert decisions(store.root)[0][0].reasons == (BEFORE_GATES,)


@pytest.mark.parametrize("recipe", ["demo", "notes"])
def test_the_first_promotion_converts_the_pointer_of_an_earlier_parakeet(store: Releases, recipe: str) -> None:
    _, latest = old_store(store)
    new = store.promoted(recipe)
    assert os.readlink(store.folder / "latest") == "promoted/demo"
    assert store.pointers()[recipe] == new.path.name
    assert opened(store) == (new if recipe == "demo" else latest).path.name
    assert [one for one in actions(store) if one[1] == latest.path.name] == [("promoted", latest.path.name)]
    if recipe == "demo":
        assert rollback(store.root, "demo", "x").previous == latest.path.name
    assert opened(store) == latest.path.name


def test_a_pointer_to_a_release_that_is_gone_falls_back_to_the_one_before(store: Releases) -> None:
    oldest, damaged, taken_back, newest = store.promoted(), store.promoted(), store.promoted(), store.add()
    rollback(store.root, "demo", "bad")
    assert store.promote(newest).is_promoted
    shutil.rmtree(newest.path)
    (damaged.path / "config.json").write_text("{}", encoding="utf-8")
    found, (message,) = find_incumbent(store.root, "demo")
    assert found == oldest.path
    assert f"{newest.path}, the promoted release of demo, is gone. {oldest.path.name}, promoted before it" in message
    assert taken_back.path.is_dir()
    assert latest_model_folder(store.root) == oldest.path.resolve()
    assert find_model(store.root, oldest.path.name).latest
    # The next one is compared with it, and replaces it.
    store.promoted()
    assert find_incumbent(store.root, "demo")[1] == []


@pytest.mark.parametrize("gone", ["latest", "promoted", "releases", "both links", "history"])
def test_links_that_were_removed_by_hand(store: Releases, gone: str) -> None:
    store.promoted("notes")
    demo = store.promoted("demo", takes_chat=True)
    if gone in ("latest", "both links"):
        (store.folder / "latest").unlink()
    if gone in ("promoted", "both links"):
        shutil.rmtree(store.folder / "promoted")
    if gone == "history":
        history_file(store.root).unlink()
    if gone == "releases":
        for path in (*store.folder.glob("*-0"),):
            shutil.rmtree(path)
        found, messages = find_opened(store.root)
        assert found is None
        assert "is gone" in messages[0]
        with pytest.raises(ParakeetError, match="no released model"):
            latest_model_folder(store.root)
    else:
        assert opened(store) == demo.path.name
        assert incumbent(store.root, "demo") == demo.path
    store.promoted()
    assert opened(store) == store.pointers()["demo"] == store.made[-1].path.name


def test_no_release_that_was_changed_by_hand_is_promoted(store: Releases) -> None:
    good = store.promoted()
    for name in sorted(path.name for path in good.path.iterdir()):
        release = store.add()
        file = release.path / name
        if name == "manifest.json":
            file.write_text(file.read_text(encoding="utf-8").replace('"sha256": "', '"sha256": "0'), encoding="utf-8")
        else:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        with pytest.raises(ParakeetError, match="it was changed after it was made"):
            store.promote(Artifact.open(release.path))
        with pytest.raises(ParakeetError, match="it was changed after it was made"):
            promote_by_hand(store.root, Artifact.open(release.path), "all the same")
        file.unlink()
        with pytest.raises(ParakeetError):
            store.promote(release)
        shutil.rmtree(release.path)
    assert actions(store) == [("promoted", good.path.name)]
    assert opened(store) == good.path.name


def test_a_verdict_on_another_release_or_beside_another_one_promotes_nothing(store: Releases) -> None:
    first, second = store.promoted(), store.add()
    with pytest.raises(ParakeetError, match=f"The comparison is of release {first.path.name}"):
        promote(store.root, second, store.judged(first))
    judged = store.judged(second)
    third = store.promoted()
    with pytest.raises(ParakeetError, match=f"compared with {first.path.name}, and {third.path.name} is the promoted"):
        promote(store.root, second, judged)
    with pytest.raises(ParakeetError, match="compared with no earlier release"):
        promote(store.root, second, replace(judged, incumbent=None))
    assert opened(store) == third.path.name


def test_a_clock_that_is_set_back_changes_nothing(store: Releases) -> None:
    made = [store.promoted() for _ in range(3)]
    file = history_file(store.root)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line, year in zip(lines, (2031, 1970, 2026), strict=True):
        line["time"] = f"{year}-01-01T00:00:00+00:00"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert rollback(store.root, "demo", "x").previous == made[1].path.name
    assert rollback(store.root, "demo", "x").previous == made[0].path.name


def test_a_full_disk_leaves_pointer_and_history_as_they_were(store: Releases) -> None:
    for _ in range(3):
        store.promoted()
    new = store.add()
    before = (store.pointers(), history_file(store.root).read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for move in (lambda: store.promote(new), lambda: rollback(store.root, "demo", "x")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[1]) + 20, hard))
        try:
            with pytest.raises(ParakeetError, match="Nothing that was there before was lost or replaced"):
                move()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (store.pointers(), history_file(store.root).read_bytes()) == before
        assert not list((store.folder / "promoted").glob(".*"))
    assert store.promote(new).is_promoted


@pytest.mark.parametrize("recorded", [True, False])
def test_a_move_that_a_power_cut_ended_is_made_whole_or_not_at_all(store: Releases, recorded: bool) -> None:
    """Between the decision and the rename of the pointer, and before the decision."""
    old, new = store.promoted(), store.add()
    (store.folder / "promoted" / ".demo.next").symlink_to(f"../{new.path.name}")
    judged = store.judged(new)
    if recorded:
        record(store.root, Decision("promoted", new.path.name, new.content, "demo", old.path.name))
    expected = new if recorded else old
    assert opened(store) == expected.path.name
    assert incumbent(store.root, "demo") == expected.path
    assert promote(store.root, new, replace(judged, incumbent=old.path.name)).is_promoted
    assert store.pointers() == {"latest": new.path.name, "demo": new.path.name}
    assert not list((store.folder / "promoted").glob(".*"))
    assert len(actions(store)) == 2


def test_a_promoted_release_that_is_removed_hands_over_by_the_history(store: Releases) -> None:
    store.promoted("notes")
    first = store.promoted("demo", takes_chat=True)
    refused = store.add()
    with pytest.raises(ParakeetError):
        store.promote(refused, "Bad.")
    second = store.promoted()
    successor = remove_model(store.root, find_model(store.root, second.path.name))
    assert successor is not None
    assert successor.directory == first.path
    last = decisions(store.root)[0][-1]
    assert (last.action, last.release, last.previous) == ("rolled_back", second.path.name, first.path.name)
    successor = remove_model(store.root, find_model(store.root, first.path.name))
    assert successor is not None
    assert successor.name == "notes"  # of another recipe, and not the refused one
    assert incumbent(store.root, "demo") is None
    assert remove_model(store.root, find_model(store.root, refused.path.name)) is None
    store.add()  # not judged, so a chat does not open it
    assert remove_model(store.root, successor) is None
    assert opened(store) is None


def test_the_list_says_what_became_of_each(store: Releases) -> None:
    made = [store.promoted(), store.promoted(), store.promoted("notes"), store.add(), store.add()]
    with pytest.raises(ParakeetError):
        store.promote(made[3], "Bad.")
    taken_back = store.promoted()
    rollback(store.root, "demo", "It is slow.")
    listed = {model.directory.name: (model.state, model.latest, model.reasons) for model in list_models(store.root)[0]}
    assert listed == {
        made[0].path.name: ("earlier", False, ()),
        made[1].path.name: ("promoted", True, ()),
        made[2].path.name: ("promoted", False, ()),
        made[3].path.name: ("refused", False, ("Bad.",)),
        made[4].path.name: ("not judged", False, ()),
        taken_back.path.name: ("rolled back", False, ("It is slow.",)),
    }
    # Of several models with one name, the promoted one is meant.
    assert find_model(store.root, "demo").directory == made[1].path
    assert find_model(store.root, "notes").directory == made[2].path


def test_bits_per_byte_are_shown_beside_a_release_that_is_damaged_or_gone(store: Releases) -> None:
    before, new = store.promoted(), store.add()
    table = beside(new.path, before.path)
    assert (table.columns, table.rows) == (("source", new.path.name, before.path.name), [("talk", "0.5000", "1.0000")])
    (before.path / "manifest.json").write_text("{", encoding="utf-8")
    assert beside(new.path, before.path).rows == [("talk", "0.5000", "–")]
    shutil.rmtree(before.path)
    assert beside(new.path, before.path).rows == [("talk", "0.5000", "–")]
    assert beside(new.path, None).columns[2] == "no earlier release"


def test_a_pointer_that_was_prepared_before_a_crash_is_no_recipe(store: Releases) -> None:
    release = store.promoted()
    (store.folder / "promoted" / ".demo.next").symlink_to(f"../{store.add().path.name}")
    assert promoted_recipes(store.root) == ["demo"]
    assert incumbent(store.root, "demo") == release.path


def test_a_removal_that_ended_after_its_line_is_completed(store: Releases) -> None:
    notes, demo = store.promoted("notes"), store.promoted("demo", takes_chat=True)
    link = store.folder / "promoted" / "demo"
    target, latest = os.readlink(link), os.readlink(store.folder / "latest")
    assert remove_promoted(store.root, demo.path, "demo", "Removed.") is None
    link.symlink_to(target)
    point_link(store.folder / "latest", latest)
    # As after a crash: the history is right, and the links are as they were.
    assert incumbent(store.root, "demo") is None
    assert opened(store) == notes.path.name
    assert not store.promote(demo).is_promoted
    assert store.pointers() == {"latest": notes.path.name, "notes": notes.path.name}
    new = store.promoted()
    assert incumbent(store.root, "demo") == new.path
    assert opened(store) == notes.path.name


def test_a_crash_before_latest_was_made_is_mended_by_the_next_build(store: Releases) -> None:
    demo = store.promoted()
    (store.folder / "latest").unlink()
    outcome = store.promote(demo)
    assert outcome.messages == ()
    assert os.readlink(store.folder / "latest") == "promoted/demo"


@pytest.mark.parametrize("edit", ["{", '{"counts": {}}'])
def test_no_release_replaces_one_whose_recipe_cannot_be_read(store: Releases, edit: str) -> None:
    _, latest = old_store(store)
    (latest.path / "manifest.json").write_text(edit, encoding="utf-8")
    new = store.add()
    with pytest.raises(ParakeetError, match=f"{latest.path.name}, which `parakeet chat` opens, is damaged"):
        store.promote(new)
    assert os.readlink(store.folder / "latest") == latest.path.name
    assert actions(store) == []
    promote_by_hand(store.root, new, "That one is broken.")
    assert opened(store) == new.path.name


@settings(max_examples=25, stateful_step_count=12, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
class Months(RuleBasedStateMachine):
    """Whatever happens in whatever order, each recipe has the release that was promoted last and not taken back."""

    folder: Path
    releases = Bundle("releases")

    @initialize()
    def begin(self) -> None:
        number = len(list(self.folder.iterdir()))
        (self.folder / str(number)).mkdir()
        self.store = Releases(self.folder / str(number) / "home")
        self.standing: dict[str, list[str]] = {"demo": [], "notes": []}
        self.decided: set[str] = set()
        self.opened: str | None = None

    def promotes(self, release: Artifact, takes_chat: bool) -> None:
        recipe, name = str(release.counts["name"]), release.path.name
        self.standing[recipe] = [one for one in self.standing[recipe] if one != name] + [name]
        if self.opened is None or takes_chat:
            self.opened = recipe

    @rule(target=releases, recipe=st.sampled_from(["demo", "notes"]))
    def make(self, recipe: str) -> Artifact:
        return self.store.add(recipe)

    @rule(release=releases, takes_chat=st.booleans())
    def build(self, release: Artifact, takes_chat: bool) -> None:
        outcome = self.store.promote(release, takes_chat=takes_chat)
        recipe, name = str(release.counts["name"]), release.path.name
        if name not in self.decided:
            self.promotes(release, takes_chat)
            self.decided.add(name)
        assert outcome.is_promoted == (self.standing[recipe][-1:] == [name])

    @rule(release=releases)
    def refuse(self, release: Artifact) -> None:
        before = len(actions(self.store))
        name = release.path.name
        decision = refuse(self.store.root, release, self.store.judged(release, "Bad."))
        if name in self.decided:
            assert decision.action != "refused"
            assert len(actions(self.store)) == before

    @rule(release=releases)
    def force(self, release: Artifact) -> None:
        promote_by_hand(self.store.root, release, "I say so.")
        self.decided.add(release.path.name)
        self.promotes(release, takes_chat=True)

    @rule(recipe=st.sampled_from(["demo", "notes"]))
    def roll_back(self, recipe: str) -> None:
        if len(self.standing[recipe]) > 1:
            self.standing[recipe].pop()
            assert rollback(self.store.root, recipe, "x").previous == self.standing[recipe][-1]
        else:
            with pytest.raises(ParakeetError):
                rollback(self.store.root, recipe, "x")

    @rule(release=consumes(releases))
    def remove(self, release: Artifact) -> None:
        recipe, name = str(release.counts["name"]), release.path.name
        remove_model(self.store.root, find_model(self.store.root, name))
        self.standing[recipe] = [one for one in self.standing[recipe] if one != name]
        if self.opened == recipe and not self.standing[recipe]:
            self.opened = next((other for other, names in self.standing.items() if names), None)

    @rule()
    def tear(self) -> None:
        if history_file(self.store.root).exists():
            with history_file(self.store.root).open("ab") as file:
                file.write(b'{"action": "prom')

    @invariant()
    def everything_points_where_it_should(self) -> None:
        for recipe, names in self.standing.items():
            found = incumbent(self.store.root, recipe)
            assert (found.name if found else None) == (names[-1] if names else None)
        found = find_opened(self.store.root)[0]
        if self.opened is not None:
            assert found is not None
            assert found.name == self.standing[self.opened][-1]


def test_months_of_promotions(tmp_path: Path) -> None:
    Months.folder = tmp_path
    run_state_machine_as_test(Months)
