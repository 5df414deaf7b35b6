"""What builds promote and what they do not: whole commands on a very small model."""

import json
import os
from pathlib import Path

import pytest

from parakeet.release.history import decisions

from .conftest import parakeet, write_recipe

pytestmark = pytest.mark.slow


def actions(home: Path) -> list[str]:
    return [decision.action for decision in decisions(home)[0]]


def pointers(home: Path) -> tuple[str, str]:
    return os.readlink(home / "releases" / "latest"), (home / "releases" / "latest").resolve().name


def test_a_build_ends_with_the_promotion(built: tuple[Path, Path, bytes]) -> None:
    home, recipe, output = built
    latest, release = pointers(home)
    assert latest == "promoted/tiny"
    assert f"promoted          {release}" in output.decode()
    assert actions(home) == ["promoted"]
    decision = decisions(home)[0][0]
    assert (decision.release, decision.previous) == (release, None)
    assert decision.run
    assert (home / "documents" / "latest.tiny").resolve() == (home / "documents" / "latest").resolve()
    again = parakeet(home, "build", "--recipe", str(recipe))
    assert again.returncode == 0, again.stderr.decode()
    assert actions(home) == ["promoted"]


def test_a_model_that_learned_less_replaces_nothing_by_any_command(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    before = pointers(home)
    values = json.loads(recipe.read_text(encoding="utf-8"))
    values["training"]["tokens"] = 5_120
    values["evaluation"]["trace_index"] = False
    del values["gates"]
    worse = recipe.with_name("worse.yaml")
    worse.write_text(json.dumps(values), encoding="utf-8")
    for command in (("build",), ("build", "--select", "promotion")):
        refused = parakeet(home, *command, "--recipe", str(worse))
        text = refused.stderr.decode()
        assert refused.returncode == 1, text
        for part in (f"{before[1]} stays the promoted release", "--force REASON", "Check "):
            assert part in text
        assert "Talk to it with: parakeet chat --model " in text
        assert "bug in Parakeet" not in text
        assert pointers(home) == before
    assert actions(home) == ["promoted", "refused"]
    bad = decisions(home)[0][1].release
    assert decisions(home)[0][1].reasons
    assert b"refused" in parakeet(home, "models").stdout
    assert parakeet(home, "release", "promote", bad).returncode == 1
    assert parakeet(home, "release", "promote", bad, "--force", "to see it talk").returncode == 0
    assert pointers(home) == ("promoted/tiny", bad)
    assert parakeet(home, "release", "rollback", "--reason", "it babbles").returncode == 0
    assert pointers(home) == before
    # Nothing that a build does now undoes it.
    built_again = parakeet(home, "build", "--recipe", str(worse), "--force", "release")
    assert pointers(home) == before, built_again.stderr.decode()
    assert actions(home)[:4] == ["promoted", "refused", "forced", "rolled_back"]
    assert parakeet(home, "chat", "-m", "hi").returncode == 0


def test_a_build_leaves_the_recipe_in_use_and_the_chat_of_another_recipe_alone(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    before, active = pointers(home), (home / "recipe.yaml").read_bytes()
    other = recipe.with_name("other.yaml")
    other.write_text(json.dumps(json.loads(recipe.read_text(encoding="utf-8")) | {"name": "other"}), encoding="utf-8")
    finished = parakeet(home, "build", "--recipe", str(other), "--set", "evaluation.trace_index=false")
    text = finished.stderr.decode()
    assert finished.returncode == 0, text
    assert f"go on with tiny. To let them build this: parakeet use {other} --set evaluation.trace_index=false" in text
    assert "`parakeet chat` goes on with tiny; to let it open other: parakeet release promote" in text
    assert "Talk to it with: parakeet chat --model " in text
    assert pointers(home) == before
    assert (home / "recipe.yaml").read_bytes() == active
    assert os.readlink(home / "releases" / "promoted" / "other") != os.readlink(home / "releases" / "promoted" / "tiny")
    for name in ("release", "evaluation"):  # which `latest` is whose
        links = sorted(link.name for link in (home / name).glob("latest*"))
        assert links == ([] if name == "release" else ["latest", "latest.other", "latest.tiny"])
    assert (home / "evaluation" / "latest").resolve() == (home / "evaluation" / "latest.tiny").resolve()
    # Both stay, and all that they were made of.
    assert b"Nothing to remove" in parakeet(home, "clean").stdout
    chosen = parakeet(home, "use", str(other))
    assert b"other is the recipe in use" in chosen.stdout
    assert parakeet(home, "build", "--recipe", str(other), "--set", "evaluation.trace_index=false").returncode == 0
    # With nothing new to promote, what `parakeet chat` opens stays.
    assert pointers(home) == before


def test_a_release_that_passed_its_gates_is_promoted_by_its_name(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    before = pointers(home)
    changed = write_recipe(recipe.parent, learning_rate=9e-4)
    compared = parakeet(home, "build", "--recipe", str(changed), "--select", "comparison")
    assert compared.returncode == 0, compared.stderr.decode()
    assert pointers(home) == before
    (new,) = {path.name for path in (home / "releases").glob("*-*")} - {before[1]}
    promoted = parakeet(home, "release", "promote", new)
    assert promoted.returncode == 0, promoted.stderr.decode()
    assert pointers(home) == (before[0], new)
    assert actions(home) == ["promoted", "promoted"]
