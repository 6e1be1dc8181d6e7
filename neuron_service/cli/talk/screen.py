"""How a reply is shown: as it comes, without characters that steer a terminal, and with its reasoning set apart."""

import contextlib
import unicodedata
from collections.abc import Iterable
from typing import Final, TextIO

from msgspec import Struct

from neuron_service.cli.talk.pieces import Ended, Order, Piece, Said, Speaker, Thought

__all__ = ("Reply", "Screen", "Shown", "harmless", "numbers_of", "take_reply")

_DIM: Final = "\033[2m"
_USUAL: Final = "\033[0m"
_KEPT: Final = frozenset("\n\t")
_STEERING: Final = frozenset({"Cc", "Cf", "Cs"})
"""Unicode categories: controls such as ESC, marks that change the direction of a line, and halves of characters."""
_JOINERS: Final = frozenset("\u200c\u200d")
"""Marks of the category Cf that only join or part letters, or emoji."""


class Reply(Struct, frozen=True, kw_only=True):
    """What a model answered. `ended` is None if somebody stopped the reply."""

    text: str
    reasoning: str = ""
    ended: Ended | None = None


class Shown:
    """Gathers the pieces of a reply while they are shown."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._thought: list[str] = []
        self._ended: Ended | None = None

    def take(self, piece: Piece) -> None:
        match piece:
            case Said(text):
                self._said.append(text)
            case Thought(text):
                self._thought.append(text)
            case Ended():
                self._ended = piece

    @property
    def reply(self) -> Reply:
        """What has come so far."""
        return Reply(text="".join(self._said), reasoning="".join(self._thought), ended=self._ended)


class Screen:
    """Where replies are shown. On a terminal reasoning is dim; elsewhere it is left out, and text stays as it is.

    What the program remarks goes to `notes`, if given, so that a file gets the replies alone.
    """

    def __init__(self, out: TextIO, *, is_terminal: bool, has_styles: bool = True, notes: TextIO | None = None) -> None:
        self._out = out
        self._notes = notes
        self._is_terminal = is_terminal
        self._has_styles = has_styles and is_terminal
        self._is_thinking = False
        self._is_at_line_start = True

    def take(self, piece: Piece) -> None:
        """Show more of a reply."""
        match piece:
            case Said(text):
                self._leave_reasoning()
                self._write(text)
            case Thought(text) if self._is_terminal:
                if not self._is_thinking:
                    self._is_thinking = True
                    self._style(_DIM)
                    self._write("(thinking) ")
                self._write(text)
            case _:
                pass

    def end(self) -> None:
        """End the reply, however it ended, with a line of its own."""
        self._leave_reasoning()
        if not self._is_at_line_start:
            self._write("\n")

    def note(self, text: str) -> None:
        """Show a remark of the program."""
        if self._notes is not None:
            print(harmless(text), file=self._notes, flush=True)
            return
        self._style(_DIM)
        self._write(text)
        self._style(_USUAL)
        self._write("\n")

    def gap(self) -> None:
        """Part what follows from what was shown, for the eyes of a person."""
        if self._is_terminal:
            self._write("\n")

    def _leave_reasoning(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            self._style(_USUAL)
            self._write("\n\n")

    def _write(self, text: str) -> None:
        shown = harmless(text) if self._is_terminal else text
        if shown:
            self._is_at_line_start = shown.endswith("\n")
            self._out.write(shown)
            self._out.flush()

    def _style(self, code: str) -> None:
        if self._has_styles:
            self._out.write(code)
            self._out.flush()


def take_reply(speaker: Speaker, order: Order, screen: Screen) -> Reply:
    """Have an order answered, and show the reply as it comes. Ctrl-C ends the reply, and what has come is returned.

    Raises `SpeakerFailed`.
    """
    shown = Shown()
    try:
        with contextlib.suppress(KeyboardInterrupt), speaker.answer(order) as pieces:
            _show(pieces, shown, screen)
    finally:
        screen.end()
    return shown.reply


def _show(pieces: Iterable[Piece], shown: Shown, screen: Screen) -> None:
    for piece in pieces:
        shown.take(piece)
        screen.take(piece)


def harmless(text: str) -> str:
    """`text` without characters that steer a terminal or change the direction of a line. Line feeds and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char for char in text if char in _KEPT or char in _JOINERS or unicodedata.category(char) not in _STEERING
    )


def numbers_of(ended: Ended) -> str:
    """The numbers of a reply, for a person."""
    parts = [f"{ended.prompt_tokens} tokens read"]
    if ended.cached_tokens:
        parts[0] += f", {ended.cached_tokens} of them remembered"
    computed = ended.prompt_tokens - ended.cached_tokens
    if ended.prefill_ms:
        parts[0] += f" ({1000 * computed / ended.prefill_ms:.0f}/s)"
    written = f"{ended.completion_tokens} written"
    if ended.decode_ms and ended.completion_tokens > 1:
        written += f" ({1000 * (ended.completion_tokens - 1) / ended.decode_ms:.1f}/s)"
    return ", ".join((*parts, written))
