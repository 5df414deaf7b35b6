"""`python -m benchmarks.gpu_check.tokens FOLDER`: tokens of Parakeet's own dialogues for gpu_check.py to train on.

FOLDER gets tokenizer/, token_shards/, packing_plan/ and recipe.json. A folder that is already complete is left alone.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from parakeet.conversation import Turn
from parakeet.data.documents import HELD_OUT, TRAIN, Document, DocumentWriter
from parakeet.data.synthetic import dialogues
from parakeet.data.tokens.packing import make_packing_plan
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe

DIALOGUES = 60_000
DIALOGUES_A_STORY = 400
"""Joined into one plain document, longer than a sequence of 8,192 tokens: the dialogues alone are all short."""


def some_documents(count: int) -> Iterator[Document]:
    """So many dialogues, every twentieth held out, and their text once more as long plain documents."""
    story: list[str] = []
    for number, dialogue in enumerate(dialogues(count=count, seed=1)):
        split = HELD_OUT if number % 20 == 19 else TRAIN
        yield Document("dialogues", "GPL-3.0-or-later", dialogue.turns, split=split)
        story += [turn.content for turn in dialogue.turns]
        if number % DIALOGUES_A_STORY == DIALOGUES_A_STORY - 1:
            split = HELD_OUT if number % (20 * DIALOGUES_A_STORY) == DIALOGUES_A_STORY - 1 else TRAIN
            yield Document("stories", "GPL-3.0-or-later", (Turn("text", "\n".join(story)),), split=split)
            story = []


def make_tokens(target: Path, count: int = DIALOGUES, tokenizer: dict[str, object] | None = None) -> None:
    """Tokenize and pack for sequences of 8,192 and of 1,024 tokens. `tokenizer` replaces the recipe's, cl100k_base."""
    base = load_recipe("parakeet-378m").model_dump()
    base["sources"] = [{"name": name, "path": "unused.txt"} for name in ("dialogues", "stories")]
    base["packing"] |= {"sequence_length": 8192, "then": [{"sequence_length": 1024, "share": 0.5}]}
    base["tokenizer"] |= tokenizer or {}
    recipe = Recipe.model_validate(base)
    names = ("deduplicated_documents", "tokenizer", "token_shards", "packing_plan")
    folders = {name: target / name for name in names}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with DocumentWriter(folders["deduplicated_documents"]) as writer:
        for document in some_documents(count):
            writer.write(document)
    progress = Progress()
    make_tokenizer(recipe, folders, folders["tokenizer"], progress)
    make_token_shards(recipe, folders, folders["token_shards"], progress)
    make_packing_plan(recipe, folders, folders["packing_plan"], progress)
    shutil.rmtree(folders["token_shards"] / "work", ignore_errors=True)
    shutil.rmtree(folders["deduplicated_documents"])
    # Last: a folder with this file is complete.
    (target / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    if not (Path(sys.argv[1]) / "recipe.json").exists():
        make_tokens(Path(sys.argv[1]))
