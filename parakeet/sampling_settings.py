"""The sampling options: name, type, range, default and help of each, defined once.

The options of `parakeet chat`, the chat's /set, the recipe's section `generation` and a release's
generation_config.json all follow from `SamplingSettings`. To add an option, add a field here and let
parakeet/generation/sampling.py act on it. Its default must be "off": older sessions and releases do not have it.

Imports neither torch nor pydantic, so that `parakeet --help` is fast and a wrong value is refused at once.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from parakeet.errors import ParakeetError

MAX_STOPS, MAX_STOP_LENGTH = 16, 1_000
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Option:
    """What one sampling option means, which values it takes, and how they are written as text."""

    help: str
    expected: str
    """What a value must be, for error messages: "a number from 0 to 10"."""
    accepts: Callable[[Any], bool]
    parse: Callable[[str], object]
    """Text to value. Raises ValueError if the text has not even the right form."""
    show: Callable[[Any], str] = str
    """Value to text that `parse` reads back as the same value."""
    metavar: str = ""
    """Stands for the value in `parakeet chat --help`; "" for a flag."""
    repeatable: bool = False
    limits: Mapping[str, float] | None = None
    """The range as pydantic's constraints (ge, gt, le). None for an option that a recipe cannot set."""


def _number(default: float, low: float, high: float, help: str, low_is_allowed: bool = True) -> Any:
    values = f"from {low:g} to {high:g}" if low_is_allowed else f"above {low:g} and at most {high:g}"

    def accepts(value: Any) -> bool:
        return _is_number(value) and low <= value <= high and (low_is_allowed or value != low)

    def show(value: float) -> str:
        return repr(value).removesuffix(".0")

    limits = {"ge" if low_is_allowed else "gt": low, "le": high}
    return _option(default, help, f"a number {values}", accepts, float, show, metavar="NUMBER", limits=limits)


def _whole(default: int, low: int, help: str) -> Any:
    return _option(
        default, help, f"a whole number of at least {low}", lambda value: _is_whole(value) and value >= low,
        _parse_whole, metavar="N", limits={"ge": low},
    )  # fmt: skip


def _seed(help: str) -> Any:
    def accepts(value: Any) -> bool:
        return value is None or (_is_whole(value) and 0 <= value < 1 << 64)

    def parse(text: str) -> int | None:
        return None if text.strip().lower() == "random" else _parse_whole(text)

    def show(value: int | None) -> str:
        return "random" if value is None else str(value)

    return _option(None, help, 'a whole number from 0 to 2^64 - 1 or "random"', accepts, parse, show, metavar="N")


def _strings(help: str) -> Any:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) <= MAX_STOPS
            and all(isinstance(item, str) and 1 <= len(item) <= MAX_STOP_LENGTH for item in value)
            # No reply contains a lone surrogate, and a session file cannot store one.
            and not any("\ud800" <= character <= "\udfff" for item in value for character in item)
        )

    def show(value: tuple[str, ...]) -> str:
        return json.dumps(value, ensure_ascii=False)

    expected = f"a text of 1 to {MAX_STOP_LENGTH:,} characters, or a JSON list of up to {MAX_STOPS} such texts"
    return _option((), help, expected, accepts, _parse_strings, show, metavar="TEXT", repeatable=True)


def _switch(help: str) -> Any:
    def parse(text: str) -> bool:
        return ("off", "on").index(text.strip().lower()) == 1

    def accepts(value: Any) -> bool:
        return isinstance(value, bool)

    return _option(False, help, "on or off", accepts, parse, lambda value: "on" if value else "off")


def _option(default: Any, *values: Any, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(*values, **more)})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _parse_whole(text: str) -> int:
    """Also reads `1e6`, up to the largest number below which a float represents every whole number."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > 1 << 53:
            raise ValueError(text) from None
        return int(number)


def _parse_strings(text: str) -> tuple[object, ...]:
    r"""A JSON list, or a JSON string (for a `\n`). Any other text is taken as it is, `[INST]` too."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str) else (text,)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the tokens of a reply are chosen. Raises ParakeetError that names a setting out of range, and the range."""

    temperature: float = _number(0.3, 0, 10, "randomness; 0 always picks the likeliest token")
    top_k: int = _whole(0, 0, "only this many of the likeliest; 0 is off")
    top_p: float = _number(0.95, 0, 1, "only the likeliest that add up to this; 1 is off", low_is_allowed=False)
    min_p: float = _number(0.01, 0, 1, "only from this share of the likeliest; 0 is off")
    repetition_penalty: float = _number(1.0, 0, 10, "divides the score of used tokens; 1 is off", low_is_allowed=False)
    frequency_penalty: float = _number(0.07, -2, 2, "lowers a token's score for each use; 0 is off")
    presence_penalty: float = _number(0.02, -2, 2, "lowers a token's score once if used; 0 is off")
    max_tokens: int = _whole(4000, 1, "longest reply, in tokens")
    stop: tuple[str, ...] = _strings("text that ends the reply and is not shown")
    rolling: bool = _switch("continue beyond the context, dropping old tokens")
    seed: int | None = _seed("the same seed gives the same reply")

    def __post_init__(self) -> None:
        if isinstance(self.stop, list):
            # A session file is JSON, which has lists only.
            object.__setattr__(self, "stop", tuple(self.stop))
        for name in OPTIONS:
            _check(name, getattr(self, name))

    @property
    def is_plain_greedy(self) -> bool:
        """Whether every token is simply the likeliest: no randomness and no penalties. Cuts leave that one anyway."""
        penalties = self.frequency_penalty, self.presence_penalty, self.repetition_penalty
        return self.temperature == 0 and penalties == (0, 0, 1)


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingSettings` as keyword arguments, for type checkers and editors."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    max_tokens: int
    stop: str | Sequence[str]
    rolling: bool
    seed: int | None


OPTIONS: dict[str, Option] = {item.name: item.metadata["option"] for item in fields(SamplingSettings)}


def _check(name: str, value: object) -> None:
    if not OPTIONS[name].accepts(value):
        raise _refusal(name, value)


def _refusal(name: str, value: object) -> ParakeetError:
    return ParakeetError(f"{name} must be {OPTIONS[name].expected}, not {_shown(value)}.")


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]  # one stop string, as it was typed
    text = repr(value).removesuffix(".0")
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def parse_setting(name: str, text: str) -> Any:
    """The value of an option, one of OPTIONS, from what a person typed. Raises ParakeetError if it is out of range.

    `seed` takes `random`, `rolling` takes `on` and `off`, `stop` takes a JSON list, a JSON string or the bare text.
    """
    try:
        value = OPTIONS[name].parse(text)
    except ValueError:
        raise _refusal(name, text) from None
    _check(name, value)
    return value


def with_setting(settings: SamplingSettings, name: str, text: str) -> SamplingSettings:
    """The settings with one changed by name, `top-k` or `top_k`. Raises ParakeetError, which suggests a known name."""
    known = name.strip().lower().replace("-", "_")
    _check_name(known, name)
    changes: dict[str, Any] = {known: parse_setting(known, text)}
    return replace(settings, **changes)


def with_values(settings: SamplingSettings, values: Mapping[str, Any]) -> SamplingSettings:
    """The settings with some changed to values of their own types; `stop` may be one text or a list.

    Raises ParakeetError for a value out of range, and for an unknown name, with a suggestion.
    """
    for name in values:
        _check_name(name, name)
    stop = values.get("stop")
    return replace(settings, **{**values, **({"stop": (stop,)} if isinstance(stop, str) else {})})


def _check_name(name: str, typed: str) -> None:
    if name not in OPTIONS:
        close = difflib.get_close_matches(name[:_MAX_SHOWN], OPTIONS, n=1)
        hint = f"did you mean {close[0]}? The" if close else "the"
        raise ParakeetError(f"There is no setting {_shown(typed)}; {hint} settings are {', '.join(OPTIONS)}.")


def describe(settings: SamplingSettings) -> list[tuple[str, str, str]]:
    """(name, value, help) of every setting; `with_setting` reads the value back."""
    return [(name, option.show(getattr(settings, name)), option.help) for name, option in OPTIONS.items()]
