"""Stop strings in a stream of text: nothing that might begin one is shown before it is decided."""

from collections.abc import Sequence


class StopStrings:
    """Cuts a reply at the first of its stop strings, however the text is split into pieces.

    The stop string that begins earliest ends the reply and is not shown, nor anything behind it. A stop
    string may hold another one: with "abcd" and "bc", the text "abc" is not decided yet, since it ends
    before "a" if a "d" follows and behind it otherwise. `stopped` is whether the reply has ended so.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: no empty string, as `SamplingSettings` makes sure; none at all lets everything through."""
        self.stopped = False
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What can be shown now, and whether a stop string has ended the reply; from then on, no more text."""
        if self.stopped:
            return "", True
        self._held += text
        match, undecided = self._match(), self._undecided()
        self.stopped = match < len(self._held) and match <= undecided
        end = min(match, undecided)
        shown, self._held = self._held[:end], "" if self.stopped else self._held[end:]
        return shown, self.stopped

    def finish(self) -> str:
        """The rest, at the end of the text: what was held back turned out to be no stop string.

        `stopped` is true behind it where a shorter stop string stood inside one that was not completed.
        """
        match = self._match()
        self.stopped |= match < len(self._held)
        shown, self._held = self._held[:match], ""
        return shown

    def _match(self) -> int:
        """Where the earliest whole stop string begins in the held text; its length if there is none."""
        found = [begin for stop in self._stops if (begin := self._held.find(stop)) >= 0]
        return min(found, default=len(self._held))

    def _undecided(self) -> int:
        """Where the earliest stop string begins that the end of the held text cuts off; its length if none.

        Only what is shorter than the longest stop string can be cut off, so a step of a long reply looks
        at a few characters.
        """
        first = max(0, len(self._held) - self._longest + 1)
        cut_off = (begin for begin in range(first, len(self._held)) if self._begins_a_stop(self._held[begin:]))
        return next(cut_off, len(self._held))

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)
