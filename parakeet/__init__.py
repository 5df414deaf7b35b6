"""Parakeet: a build system for one tiny language model, and the models that it built.

Open a model and talk to it:

    import parakeet

    model = parakeet.load()                   # the promoted one; or a name, a folder, "KEY@STEP" of a run
    print(model.reply("Who are you?"))

Piece by piece, with everything that is known of each:

    for piece in model.generate([("user", "Tell me a story.")], temperature=0.8, seed=1):
        print(piece.text, end="", flush=True)

Measure it:

    model.score("The quick brown fox.").bits_per_byte
    model.logits(model.prompt_ids("Two and two is"))[-1].softmax(-1).topk(5)

Find its wording in the text that it was trained on:

    model.trace(model.reply("Tell me a story.")).coverage

Whatever a caller can correct raises `parakeet.ParakeetError`, whose message says what is wrong and what to do. Models
are found in PARAKEET_HOME, as by the command line. `docs/python.md` and the notebook `docs/parakeet.ipynb` show more.

To build a model, use the command line: `parakeet build`.
"""

from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.api import Generation, Model, Piece, Score, load

__version__ = "0.2.0"
__all__ = ["Generation", "Model", "ParakeetError", "Piece", "Score", "load"]


def __getattr__(name: str) -> Any:
    # When they are first used: every command imports this module, and most use nothing of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("parakeet.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
