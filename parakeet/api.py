"""The Python API: what `import parakeet` offers. Importing it costs nothing; `load` imports torch."""

import operator
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parakeet.api_results import Generation, Piece, Score
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingOptions, SamplingSettings, with_values

if TYPE_CHECKING:
    from typing import Unpack

    from torch import Tensor

    from parakeet.chat.models import OpenedModel
    from parakeet.generation.engine import Engine
    from parakeet.model.config import ModelConfig
    from parakeet.tokenizer import Tokenizer
    from parakeet.trace.spans import Trace
    from parakeet.trace.tracer import Tracer

Message = Mapping[str, str] | tuple[str, str]
"""`{"role": "user", "content": "Hello!"}` or `("user", "Hello!")`."""
Prompt = str | Iterable[Message]
"""A text, or a conversation."""

T = TypeVar("T")
MOST_THREADS = 1024


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    cache_dtype: str = "auto",
    threads: int = 0,
) -> "Model":
    """Open a model, ready to generate.

    >>> model = parakeet.load()                      # the promoted one, as `parakeet chat` does
    >>> model = parakeet.load("demo", dtype="int8")

    model: a name or folder, as `parakeet models` lists them, or a checkpoint of a training run as "KEY@STEP". None is
        the promoted release. Names are looked up in PARAKEET_HOME, as by the command line.
    device: "auto", "cpu", "cuda", "cuda:N", or "mps" for Apple's GPU, which is untried.
    dtype: precision of the weights: "auto", "fp32", "bf16", "int8" or "int4". On a CPU, auto takes the fastest that
        costs at most 0.5 % of bits per byte.
    cache_dtype: precision of the key/value cache: "auto", "fp32", "bf16" or "int8".
    threads: CPU threads of torch, for the whole process. 0 is one for each core, or one for a tiny model.

    Raises ParakeetError if there is no such model, its files are damaged, or it does not fit the device. What is worth
    knowing but no error, such as a dtype that is slow here, is a warning.
    """
    from parakeet.home import home

    if not (model is None or isinstance(model, str | Path)):
        raise ParakeetError(f"A model is given by its name or folder, a str or a Path, not {model!r}.")
    if type(threads) is not int or not 0 <= threads <= MOST_THREADS:
        raise ParakeetError(f"threads must be a whole number from 0 to {MOST_THREADS:,}, not {threads!r}.")
    # Imported here and not by the opener, which freezes all objects of the process: here they are the caller's.
    import torch  # noqa: F401

    from parakeet.chat.models import ModelOpener

    root = home()
    opener = ModelOpener(root, device, dtype, threads, cache_dtype)
    opened = opener.open() if model is None else opener.open_any(str(model))
    for note in opened.notes:
        warnings.warn(note, stacklevel=2)
    return Model(opened, root)


class Model:
    """A model that `parakeet.load` opened.

    Its methods may be called from several threads, and several texts may be generated at once, in turns: each has a
    key/value cache of its own, but the arithmetic is done for one at a time.
    """

    def __init__(self, opened: "OpenedModel", root: Path) -> None:
        """Made by `parakeet.load`."""
        self._release, self._engine, self._root = opened.release, opened.engine, root
        self._computing = threading.Lock()
        # At most one: that with the keys and values of the latest text, so that a conversation is not read again at
        # each turn.
        self._idle = [opened.engine]

    def generate(self, prompt: "Prompt", **settings: "Unpack[SamplingOptions]") -> Generation:
        """Continue a text, or reply to a conversation, piece by piece.

        >>> model.generate("Once upon a time", temperature=0.8, seed=1).read()
        >>> model.generate([("system", "Be brief."), ("user", "Who are you?")]).read()

        prompt: a text is continued as it is, as by `parakeet chat --raw`. Messages are dicts with "role" and "content"
            (other keys are ignored) or (role, content) pairs: a system message or none, then user and assistant in
            turn. If the last one is the assistant's, that reply is continued. If a conversation is longer than the
            context, its oldest exchanges are left out, with a warning.
        settings: temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, max_tokens,
            stop, rolling and seed, as `parakeet chat --help` explains them. Those not given are `model.settings`. The
            same seed gives the same text as in `parakeet chat`. None draws a seed.

        Everything is checked at once, and nothing computed before the first piece. Raises ParakeetError for an empty or
        too long prompt, a wrong role or order of messages, and a setting that is unknown or out of range.
        """
        import secrets

        from parakeet.chat.session import SEED_BITS

        chosen = with_values(self.settings, settings)
        ids, dropped = self._prompt(prompt, chosen)
        if dropped:
            warnings.warn(
                "The conversation is longer than the model's context: its oldest messages were left out.", stacklevel=2
            )
        seed = secrets.randbits(SEED_BITS) if chosen.seed is None else chosen.seed
        return Generation(self._pieces(ids, replace(chosen, seed=seed)), ids, seed, dropped)

    def reply(self, message: "Prompt", **settings: "Unpack[SamplingOptions]") -> str:
        """The whole reply to a message, or to a conversation. Settings and errors as in `generate`.

        >>> model.reply("Who are you?")
        'I am Parakeet, a tiny language model.'
        """
        if isinstance(message, str):
            if not message.strip():
                raise ParakeetError("The message is empty: there is nothing to reply to.")
            message = [("user", message)]
        return self.generate(message, **settings).read()

    def prompt_ids(self, prompt: "Prompt") -> list[int]:
        """The ids that `generate` would continue, with the control ids of roles and ends.

        >>> ids = model.prompt_ids([("user", "Who are you?")])
        >>> likeliest = model.logits(ids)[-1].softmax(-1).topk(5)
        """
        return self._prompt(prompt, self.settings)[0]

    def logits(self, ids: Iterable[int]) -> "Tensor":
        """Logits (n, vocabulary rows) fp32 after each of n ids, on the model's device.

        Row i predicts the id after ids[i], from ids[: i + 1]. Raises ParakeetError if there are no ids, more than the
        context holds, or one that is not in the vocabulary.
        """
        import torch

        from parakeet.chat.message_list import shown

        rows = self.config.vocabulary_rows
        try:
            given = [operator.index(token_id) for token_id in ids]
        except TypeError:
            raise ParakeetError(f"ids must be whole numbers in one row, not {shown(ids)}.") from None
        for place, token_id in enumerate(given):
            if not 0 <= token_id < rows:
                raise ParakeetError(f"ids[{place}] is {token_id:,}, but the vocabulary has the ids 0 to {rows - 1:,}.")
        return self._compute(lambda: torch.cat(list(self._engine.logits(given))))

    def score(self, text: str, sequence_length: int | None = None) -> Score:
        """How well the model predicts a text, as a document of its own.

        >>> model.score("The quick brown fox.")
        <Score 1.872 bits per byte (9 tokens, 20 bytes)>

        sequence_length: a longer text is scored in pieces of so many tokens, each predicted without the ones before
            it. None is the model's context. The evaluation of a build does the same with packing.sequence_length.

        The figure is that of the precision in which the model was loaded; evaluations use fp32. Raises ParakeetError if
        the text is empty, the length is beyond the context, or the model's numbers are not finite.
        """
        from parakeet.chat.prompt_builder import raw_ids

        text, context = _text(text), self._engine.context
        if not text:
            raise ParakeetError("The text is empty: there is nothing to score.")
        length = context if sequence_length is None else sequence_length
        if type(length) is not int or not 1 <= length <= context:
            raise ParakeetError(f"sequence_length must be a whole number from 1 to {context:,}, not {length!r}.")
        ids = raw_ids(self.tokenizer, text)
        found: list[float] = []
        for begin in range(0, len(ids) - 1, length):
            # Pieces overlap by one token, so that none goes unpredicted.
            piece = ids[begin : begin + length + 1]
            found += self._compute(lambda piece=piece: self._engine.log_probabilities(piece))  # type: ignore[misc]
        return Score(tuple(ids[1:]), tuple(found), len(text.encode()))

    def trace(self, text: str, min_tokens: int = 8, documents: int = 3) -> "Trace":
        """Where the wording of a text stands in the text that the model was trained on.

        >>> found = model.trace(model.reply("Tell me a story."))
        >>> found.coverage, [(span.text, span.count) for span in found.spans]

        min_tokens: tokens of the shortest span. documents: how many documents to show of each span, at most.

        Raises ParakeetError if the text is shorter than a span, or if there is no index of the training text. The
        message says which command makes it.
        """
        for name, value, least in (("min_tokens", min_tokens, 1), ("documents", documents, 0)):
            if type(value) is not int or value < least:
                raise ParakeetError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        return self._tracer.trace(_text(text), min_tokens, documents)

    @property
    def name(self) -> str:
        """The release's name, or that of a run's checkpoint: "run 3fa9c1d2@1200"."""
        return self._release.name

    @property
    def path(self) -> Path:
        """The folder of the release or checkpoint."""
        return self._release.directory

    @property
    def config(self) -> "ModelConfig":
        """The shape: layers, heads, width, context, vocabulary_rows; and what follows, such as parameter_count."""
        return self._engine.model.config

    @property
    def settings(self) -> SamplingSettings:
        """The sampling settings of the release, which hold where `generate` is given no others."""
        return self._release.generation

    @property
    def tokenizer(self) -> "Tokenizer":
        """Text to ids and back: `encode(text)`, `decode(ids)`, `token_bytes(id)`. Text never becomes a control id."""
        return self._engine.tokenizer

    @property
    def device(self) -> str:
        """ "cpu", "cuda", "cuda:N" or "mps"."""
        return self._engine.device

    @property
    def dtype(self) -> str:
        """The precision of the weights: "fp32", "bf16", "int8" or "int4"."""
        return self._engine.dtype

    def __repr__(self) -> str:
        from parakeet.formatting import format_count

        size = format_count(self.config.parameter_count)
        return f"<Model {self.name}: {size} parameters, context {self.config.context:,}, {self.dtype} on {self.device}>"

    @cached_property
    def _tracer(self) -> "Tracer":
        from parakeet.trace.tracer import Tracer

        return Tracer.open(self.name, self.path, self._root, self.tokenizer)

    def _prompt(self, prompt: "Prompt", settings: SamplingSettings) -> tuple[list[int], int]:
        """Ids, and how many exchanges were left out."""
        from parakeet.chat.message_list import read_messages
        from parakeet.chat.prompt_builder import PromptBuilder

        engine = self._engine
        builder = PromptBuilder(engine.tokenizer, engine.context, engine.longest_token, settings.max_tokens)
        if isinstance(prompt, str):
            text = _text(prompt)
            if not text.strip():
                raise ParakeetError("The prompt is empty: there is nothing to continue.")
            return builder.raw(text), 0
        talk = read_messages(prompt)
        builder.check_system(talk.system)
        if talk.last.reply:
            return builder.continued(talk.system, talk.exchanges, talk.last)
        return builder.reply(talk.system, talk.exchanges, talk.last.message)

    def _pieces(self, prompt_ids: list[int], settings: SamplingSettings) -> Generator[Piece, None, None]:
        try:
            engine = self._idle.pop()
        except IndexError:
            engine = self._another_engine()
        steps = engine.generate(prompt_ids, settings, log_probabilities=True)
        ids, known = list[int](), list[float]()
        try:
            while (step := self._compute(lambda: next(steps, None))) is not None:
                if step.token_id is not None and step.log_probability is not None:
                    ids.append(step.token_id)
                    known.append(step.log_probability)
                if step.text or step.finish_reason:
                    yield Piece(step.text, tuple(ids), tuple(known), step.finish_reason)
                    ids, known = [], []
        finally:
            self._idle[:] = [engine]

    def _another_engine(self) -> "Engine":
        """One with a cache of its own, which shares the weights."""
        from parakeet.generation.engine import Engine

        return Engine(self._engine.model, self._engine.tokenizer, self._engine.choice)

    def _compute(self, work: Callable[[], T]) -> T:
        with self._computing:
            return work()


def _text(value: str) -> str:
    """Lone surrogates become U+FFFD, as everywhere."""
    from parakeet.chat.events import encodable
    from parakeet.chat.message_list import shown

    if not isinstance(value, str):
        raise ParakeetError(f"The text must be a str, not {shown(value)}.")
    return encodable(value)
