"""What a person types: lines with history and editing by readline, which Python brings along."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self, TextIO

__all__ = ("Keyboard", "history_file")

_PROMPTS: Final = {"first": ">>> ", "next": "... "}
_MOST_LINES: Final = 1000
"""Lines of the history that are kept."""


class Keyboard:
    """Reads lines. On a terminal they can be edited, and earlier ones come back by the arrow keys."""

    def __init__(self, stdin: TextIO | None = None) -> None:
        self._stdin = stdin or sys.stdin
        if isinstance(self._stdin, io.TextIOWrapper):
            self._stdin.reconfigure(errors="surrogateescape")  # `meaning` refuses the line, and the program goes on
        self.is_terminal = self._stdin.isatty()

    @classmethod
    @contextmanager
    def open(cls, words: Sequence[str], *, history: Path | None) -> Iterator[Self]:
        """The keyboard of this process. The tabulator completes `words`. The lines are kept in `history`, if given.

        The file of the history belongs to this user alone. A file that cannot be read or written is no error.
        """
        keyboard = cls()
        if not keyboard.is_terminal:
            yield keyboard
            return
        with _line_editing(words, history):
            yield keyboard

    def read(self, which: Literal["first", "next"]) -> str:
        """One line without its end. Raises `EOFError` at the end of the input, and KeyboardInterrupt for Ctrl-C."""
        if self.is_terminal:
            return input(_PROMPTS[which])
        line = self._stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


@contextmanager
def _line_editing(words: Sequence[str], history: Path | None) -> Iterator[None]:
    try:
        import readline  # noqa: PLC0415 - some builds of Python have none; only a terminal needs it
    except ImportError:
        yield
        return

    def complete(text: str, number: int) -> str | None:
        found = [word for word in words if word.startswith(text)] if text.startswith("/") else []
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    readline.parse_and_bind("tab: complete")
    if history is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
    readline.set_history_length(_MOST_LINES)
    try:
        yield
    finally:
        if history is not None:
            with contextlib.suppress(OSError):
                history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
                readline.write_history_file(history)


def history_file(environ: Mapping[str, str]) -> Path:
    """Where the lines of `neuron chat` are kept: below `XDG_STATE_HOME`, or else `~/.local/state`."""
    home = environ.get("XDG_STATE_HOME", "")
    state = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return state / "neuron" / "chat_history"
