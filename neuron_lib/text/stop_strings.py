"""Ends a reply at the first stop string, however the text is cut into tokens. Holds back text that may begin a stop
string.
"""

from collections.abc import Sequence

from neuron_lib.text.tag_splitter import cut_at_tag

__all__ = ("StopStrings",)


class StopStrings:
    """Watches the text of one reply. Lives as long as that reply. `stops` must not contain an empty string.

    The reply ends at the stop string that is completed first. If one character completes several, the longest counts.
    The result does not depend on how the text was cut into pieces.
    """

    __slots__ = ("_held", "_stops", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would stop before the first character")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that was found. All text after it is dropped."""

    @property
    def hit(self) -> bool:
        """Whether a stop string was found."""
        return self.found is not None

    def feed(self, text: str) -> str:
        """Add more text of the reply. Returns the part that is certain to be shown, which may be empty."""
        if self.hit:
            return ""
        if not self._stops:
            return text
        before, self.found, rest = cut_at_tag(self._held + text, self._stops)
        self._held = rest if self.found is None else ""
        return before

    def finish(self) -> str:
        """End the reply. Returns the text that was held back because a stop string might have begun in it."""
        held, self._held = self._held, ""
        return held
