"""What a person can set of how replies are drawn. Imports no torch: a wrong value is refused at once."""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from parakeet.errors import ParakeetError

MOST_STOPS, LONGEST_STOP = 16, 1_000
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class _Kind:
    """What one setting means and may be; `needed` is the subject of "… is needed" in a refusal."""

    meaning: str
    needed: str
    accepts: Callable[[Any], bool]
    parse: Callable[[str], object]
    """Raises ValueError where the text has not even the right form."""
    show: Callable[[Any], str]
    """Text that `parse` reads back as the same value."""


def _number(meaning: str, low: float, high: float, low_is_allowed: bool = True) -> Mapping[str, _Kind]:
    needed = f"a number from {low:g} to {high:g}" if low_is_allowed else f"a number above {low:g} and up to {high:g}"

    def accepts(value: Any) -> bool:
        return _is_number(value) and low <= value <= high and (low_is_allowed or value != low)

    return {"kind": _Kind(meaning, needed, accepts, float, lambda value: repr(value).removesuffix(".0"))}


def _whole(meaning: str, low: int) -> Mapping[str, _Kind]:
    needed = f"a whole number of at least {low}"
    return {"kind": _Kind(meaning, needed, lambda value: _is_whole(value) and value >= low, _parse_whole, str)}


def _seed(meaning: str) -> Mapping[str, _Kind]:
    def accepts(value: Any) -> bool:
        return value is None or (_is_whole(value) and 0 <= value < 1 << 64)

    def parse(text: str) -> int | None:
        return None if text.strip().lower() == "random" else _parse_whole(text)

    def show(value: int | None) -> str:
        return "random" if value is None else str(value)

    return {"kind": _Kind(meaning, "a whole number from 0 to 2^64 - 1, or the word random,", accepts, parse, show)}


def _strings(meaning: str) -> Mapping[str, _Kind]:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) <= MOST_STOPS
            and all(isinstance(item, str) and 1 <= len(item) <= LONGEST_STOP for item in value)
            # No reply holds a lone surrogate, and no file could take it.
            and not any("\ud800" <= character <= "\udfff" for item in value for character in item)
        )

    def show(value: tuple[str, ...]) -> str:
        return json.dumps(value, ensure_ascii=False)

    needed = (
        f"one text of 1 to {LONGEST_STOP:,} characters, or a JSON list of at most {MOST_STOPS} such texts "
        "([] for none),"
    )
    return {"kind": _Kind(meaning, needed, accepts, _parse_strings, show)}


def _switch(meaning: str) -> Mapping[str, _Kind]:
    def parse(text: str) -> bool:
        return ("off", "on").index(text.strip().lower()) == 1

    def accepts(value: Any) -> bool:
        return isinstance(value, bool)

    return {"kind": _Kind(meaning, "on or off", accepts, parse, lambda value: "on" if value else "off")}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _parse_whole(text: str) -> int:
    """`1e6` is a whole number too, as far as a float holds every one of them."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > 1 << 53:
            raise ValueError(text) from None
        return int(number)


def _parse_strings(text: str) -> tuple[object, ...]:
    r"""A JSON list or a JSON string (for a `\n`); any other text stands for itself, `[INST]` too."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str) else (text,)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How replies are drawn. What each setting means and may be stands in its metadata, once for all:
    `describe` shows it, `with_setting` and the refusals go by it. Ranges are those of the recipe's
    section `generation`.

    Raises ParakeetError naming the setting that is out of its range, and the range.
    """

    temperature: float = field(metadata=_number("spread of the draw; 0 takes the likeliest token", 0, 10))
    top_k: int = field(default=0, metadata=_whole("only this many of the likeliest; 0 is off", 0))
    top_p: float = field(metadata=_number("only the likeliest that add up to this; 1 is off", 0, 1, False))
    min_p: float = field(metadata=_number("only from this share of the likeliest; 0 is off", 0, 1))
    repetition_penalty: float = field(
        default=1.0, metadata=_number("weakens tokens already said, by a factor; 1 is off", 0, 10, False)
    )
    frequency_penalty: float = field(metadata=_number("weakens a token for each time said; 0 is off", -2, 2))
    presence_penalty: float = field(metadata=_number("weakens a token once it was said; 0 is off", -2, 2))
    max_tokens: int = field(metadata=_whole("longest reply, in tokens", 1))
    stop: tuple[str, ...] = field(default=(), metadata=_strings("text that ends the reply and is not shown"))
    rolling: bool = field(default=False, metadata=_switch("go on past the context, forgetting the oldest"))
    seed: int | None = field(default=None, metadata=_seed("the same seed gives the same reply"))

    def __post_init__(self) -> None:
        if isinstance(self.stop, list):
            # JSON knows no tuples: a session file gives a list back.
            object.__setattr__(self, "stop", tuple(self.stop))
        for name, kind in _kinds().items():
            value = getattr(self, name)
            if not kind.accepts(value):
                raise _refusal(name, value, kind)


def _kinds() -> dict[str, _Kind]:
    return {item.name: item.metadata["kind"] for item in fields(SamplingSettings)}


def _refusal(name: str, value: object, kind: _Kind) -> ParakeetError:
    return ParakeetError(f"{name} is {_shown(value)}; {kind.needed} is needed.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def with_setting(settings: SamplingSettings, name: str, text: str) -> SamplingSettings:
    """The settings with one of them read from what a person typed; `top-k` is `top_k`.

    `seed` takes `random`, `rolling` takes `on` and `off`, `stop` takes a JSON list, a JSON string or the
    bare text. Raises ParakeetError: an unknown name with the nearest known, a value with its range.
    """
    kinds = _kinds()
    known = name.strip().lower().replace("-", "_")
    if known not in kinds:
        close = difflib.get_close_matches(known[:_LONGEST_SHOWN], kinds, n=1)
        hint = f"did you mean {close[0]}? The" if close else "the"
        raise ParakeetError(f"There is no setting {_shown(name)}; {hint} settings are {', '.join(kinds)}.")
    try:
        value = kinds[known].parse(text)
    except ValueError:
        raise _refusal(known, text, kinds[known]) from None
    changes: dict[str, Any] = {known: value}
    return replace(settings, **changes)


def describe(settings: SamplingSettings) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of every setting, to be shown; `with_setting` reads the value back."""
    return [(name, kind.show(getattr(settings, name)), kind.meaning) for name, kind in _kinds().items()]
