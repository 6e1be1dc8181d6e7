"""Ends a reply at the first stop string, wherever the tokens cut it. Lets text go as soon as no stop can claim it."""

from collections.abc import Sequence

from neuron_lib.text.tag_splitter import cut_at_tag

__all__ = ("StopStrings",)


class StopStrings:
    """Watches one reply. Lives as long as that reply; `stops` must not contain an empty string.

    The stop string completed first ends the reply, and of those completed by the same character the longest. What
    comes out is the same however the text was cut into pieces.
    """

    __slots__ = ("_held", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would stop before the first character")
        self._stops = tuple(stops)
        self._held: str | None = ""

    @property
    def hit(self) -> bool:
        """Whether a stop string was found; all text after it is dropped."""
        return self._held is None

    def feed(self, text: str) -> str:
        """Take more of the reply; returns the part that is safe to show now, which may be empty."""
        if self._held is None:
            return ""
        if not self._stops:
            return text
        before, tag, rest = cut_at_tag(self._held + text, self._stops)
        self._held = rest if tag is None else None
        return before

    def finish(self) -> str:
        """The reply is over; returns what was held back in case a stop string had begun in it."""
        held = self._held or ""
        if not self.hit:
            self._held = ""
        return held
