"""Stop strings in a stream of text: text that could be the start of one is held back until that is decided."""

from collections.abc import Sequence


class StopStrings:
    """Cuts a reply at the first of its stop strings, however the text is split into pieces.

    The stop string that begins earliest ends the reply; neither it nor anything after it is shown. A stop string may
    contain another: with "abcd" and "bc", the text "abc" is undecided. If "d" follows, the reply ends before "a",
    otherwise after it. `stopped` is whether a stop string has ended the reply.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` must not contain an empty string (`SamplingSettings` ensures it). Without stops, all text passes."""
        self.stopped = False
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that can be shown now, and whether the reply has ended; after that, no text is shown."""
        if self.stopped:
            return "", True
        self._held += text
        match, undecided = self._match(), self._undecided()
        self.stopped = match < len(self._held) and match <= undecided
        end = min(match, undecided)
        shown, self._held = self._held[:end], "" if self.stopped else self._held[end:]
        return shown, self.stopped

    def finish(self) -> str:
        """The text that was held back, now that no more follows.

        Sets `stopped` if a shorter stop string was inside a longer one that was not completed.
        """
        match = self._match()
        self.stopped |= match < len(self._held)
        shown, self._held = self._held[:match], ""
        return shown

    def _match(self) -> int:
        """Where the earliest whole stop string begins in the held text, or the text's length."""
        found = [begin for stop in self._stops if (begin := self._held.find(stop)) >= 0]
        return min(found, default=len(self._held))

    def _undecided(self) -> int:
        """Where the earliest incomplete stop string begins at the end of the held text, or the text's length.

        It is shorter than the longest stop string, so only a few characters are examined.
        """
        first = max(0, len(self._held) - self._longest + 1)
        cut_off = (begin for begin in range(first, len(self._held)) if self._begins_a_stop(self._held[begin:]))
        return next(cut_off, len(self._held))

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)
