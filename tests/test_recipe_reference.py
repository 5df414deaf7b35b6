"""docs/recipes.md is generated from the models, and is what they say now."""

from pathlib import Path

from parakeet.recipe_reference import render_reference

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


def test_the_page_of_all_keys_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_reference(), (
        "run: python -m parakeet.recipe_reference > docs/recipes.md"
    )
