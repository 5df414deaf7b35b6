"""Small real things that several tests need: a corpus, a trained tokenizer, shards, a plan."""

import os

# Before torch is imported anywhere: at this size two threads that wait for each other on busy cores are up to ten
# times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from parakeet.conversation import Turn
from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.tokens.packing import make_packing_plan
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.tokenizer import CL100K_URL, Tokenizer

# A slow example is no failure: the machine may be busy.
settings.register_profile("parakeet", deadline=None)
settings.load_profile("parakeet")


def without_root_rights() -> list[str]:
    """A prefix that makes file permissions apply to a command even if the tests run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root can write to read-only folders, and setpriv, which removes that right, is not installed")
    return ["setpriv", "--bounding-set", "-dac_override"]


@pytest.fixture(scope="session")
def cl100k_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for TIKTOKEN_CACHE_DIR with a copy of the cl100k_base vocabulary (tiktoken deletes a damaged file).

    It is looked for in TIKTOKEN_CACHE_DIR, then in ../shared/data/tiktoken beside the checkout. Tests use no network.
    """
    name = hashlib.sha1(CL100K_URL.encode()).hexdigest()
    beside = Path(__file__).parents[2] / "shared" / "data" / "tiktoken"
    cached = os.environ.get("TIKTOKEN_CACHE_DIR")
    for folder in [*([Path(cached)] if cached else []), beside]:
        if (folder / name).is_file():
            copy = tmp_path_factory.mktemp("tiktoken")
            shutil.copyfile(folder / name, copy / name)
            return copy
    pytest.skip("the cl100k_base vocabulary is neither in TIKTOKEN_CACHE_DIR nor beside this checkout")


@dataclass(frozen=True)
class Prepared:
    """The data stages' folders for a few dialogues."""

    recipe: Recipe
    documents: Path
    tokenizer_folder: Path
    shards: Path
    plan: Path

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_folder)


def some_documents(count: int = 300) -> list[Document]:
    """Dialogues of varied length, every tenth held out, and two plain texts longer than a row."""
    documents = []
    for number in range(count):
        question = Turn("Human", f"What is {number % 17} plus {number}?")
        answer = Turn("Assistant", f"{number % 17} plus {number} is {number % 17 + number}." * (1 + number % 3))
        documents.append(Document("talk", "MIT", (question, answer), split="train" if number % 10 else "held_out"))
    for number in range(2):
        text = " ".join(f"Line {number} and {line} of a longer text." for line in range(60))
        documents.append(Document("text", "MIT", (Turn("text", text),), split="train" if number else "held_out"))
    return documents


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    # The machine that runs `-m gpu` has no datatrove.
    from parakeet.data.tokens.tokenise import make_token_shards

    root = tmp_path_factory.mktemp("prepared")
    base = load_recipe("own-text").model_dump()
    base["sources"] = [{"name": name, "path": "unused.txt"} for name in ("text", "talk")]
    base["tokenizer"]["vocabulary"] = 400
    base["packing"]["sequence_length"] = 32
    base["model"] |= {"layers": 3, "heads": 2, "width": 32, "dropout": 0.1}
    base["training"] |= {"tokens": 32 * 8 * 20, "batch_tokens": 256, "micro_batch_tokens": 128, "warmup_steps": 5}
    base["evaluation"]["chat_prompts"] = False
    base["training"] |= {"checkpoint_steps": 3, "threads": 1, "decay_fraction": 0.3}
    recipe = Recipe.model_validate(base)
    folders = {name: root / name for name in ("deduplicated_documents", "tokenizer", "token_shards", "packing_plan")}
    for folder in folders.values():
        folder.mkdir()
    with DocumentWriter(folders["deduplicated_documents"]) as writer:
        for document in some_documents():
            writer.write(document)
    progress = Progress()
    make_tokenizer(recipe, folders, folders["tokenizer"], progress)
    make_token_shards(recipe, folders, folders["token_shards"], progress)
    shutil.rmtree(folders["token_shards"] / "work")
    make_packing_plan(recipe, folders, folders["packing_plan"], progress)
    return Prepared(
        recipe,
        folders["deduplicated_documents"],
        folders["tokenizer"],
        folders["token_shards"],
        folders["packing_plan"],
    )
