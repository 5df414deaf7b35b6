"""Of which decisions on releases the recipe's `notify:` is told."""

from pathlib import Path

import pytest

from assets_defs.notices import decisions_told
from parakeet.errors import ParakeetError
from parakeet.recipe import Notify
from parakeet.recipe_file import load_recipe
from parakeet.release.history import (
    BEFORE_GATES,
    FORCED,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    Decision,
    history_file,
    record,
)
from pipelines.notices import settings_in_use


def test_promoted_and_refused_releases_of_the_recipe_are_told_once(tmp_path: Path) -> None:
    command = f'printf "%s|%s|%s\\n" "$PARAKEET_EVENT" "$PARAKEET_RELEASE" "$PARAKEET_TEXT" >> {tmp_path}/told'
    recipe = load_recipe("demo").model_copy(update={"notify": Notify(command=command)})

    def decide(action: str, release: str, *reasons: str, name: str = "demo", run: str | None = None) -> None:
        figures = {"bits_per_byte": 1.25, "incumbent_bits_per_byte": 1.5}
        record(tmp_path, Decision(action, release, "content", name, "old-0", reasons, figures, run))

    decide(PROMOTED, "before-0")
    with decisions_told(tmp_path, recipe, lambda: "good-0", "this run"):
        decide(PROMOTED, "good-0", run="this run")
        decide(PROMOTED, "good-0", BEFORE_GATES)
        # Those of other runs meanwhile, which send their own notices.
        decide(PROMOTED, "good-0", run="another run")
        decide(REFUSED, "bad-1", "It is worse.")
        decide(PROMOTED, "other-0", name="other")
        decide(ROLLED_BACK, "good-0")
        decide(FORCED, "good-0")

    def refuse() -> None:
        with decisions_told(tmp_path, recipe, lambda: "bad-0", "this run"):
            decide(REFUSED, "bad-0", "It needs 2.2 bits per byte, old-0 needs 0.3.")
            raise ParakeetError("as it was")

    with pytest.raises(ParakeetError, match="as it was"):
        refuse()
    assert (tmp_path / "told").read_text(encoding="utf-8").splitlines() == [
        "promoted|good-0|good-0 is now the promoted release of demo in place of old-0: 1.250 bits per byte, before "
        "1.500.",
        "refused|bad-0|Release bad-0 of demo was refused. It needs 2.2 bits per byte, old-0 needs 0.3. old-0 stays the "
        "promoted release.",
    ]
    history_file(tmp_path).unlink()
    history_file(tmp_path).mkdir()
    with decisions_told(tmp_path, recipe, lambda: None):
        """A history that cannot be read ends no run."""


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("name: x\nnotify:\n  command: 'true'\ntraining: [\n", "true"),
        ("sources: [\nnotify: {command: cat}\n", "cat"),
        ("notify:\n# for me\n\n  command: cat\ntraining: {steps: x}\n", "cat"),
        ("x: [\nnotify:\n  command: cat", "cat"),
        ("x: [\nnotify: [cat]\n", None),
        ("x: [\nnotify:\n", None),
        ("x: [\nnotify: {url: no address}\n", None),
        ("x: [\nnotify: {command: [\n", None),
        ("x: [\n  notify: {command: cat}\n", None),
        ("x: [\n", None),
    ],
)
def test_a_recipe_that_cannot_be_read_still_says_where_notices_go(
    text: str, command: str | None, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert settings_in_use(tmp_path) == (Notify(command=command) if command else None)
