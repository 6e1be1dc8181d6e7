"""What a typed line of `neuron chat` means. Pure: reads lines through a function, and acts on nothing."""

import difflib
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = (
    "COMMANDS",
    "Clear",
    "Help",
    "Leave",
    "Load",
    "Meant",
    "Retry",
    "Save",
    "Say",
    "System",
    "Wrong",
    "meaning",
    "read_message",
)

COMMANDS: Final = {
    "/system": "/system [TEXT]   show the system prompt, or set it; /system - removes it",
    "/load": "/load FILE       go on with a saved conversation",
    "/save": "/save FILE       save this conversation",
    "/clear": "/clear           forget everything that was said, and keep the system prompt",
    "/retry": "/retry           have the last message answered again",
    "/help": "/help            show this",
    "/bye": "/bye             leave; so does Ctrl-D",
}
"""The commands, each with its line in the help."""
_ELSEWHERE: Final = {
    "/exit": "/bye",
    "/quit": "/bye",
    "/q": "/bye",
    "/?": "/help",
    "/new": "/clear",
    "/reset": "/clear",
}
_QUOTES: Final = '"""'


class Say(Struct, frozen=True):
    """Send this message."""

    text: str


class System(Struct, frozen=True):
    """Set the system prompt; None shows it, "" removes it."""

    text: str | None


class Load(Struct, frozen=True):
    """Read a conversation from this file."""

    path: str


class Save(Struct, frozen=True):
    """Write the conversation to this file."""

    path: str


class Wrong(Struct, frozen=True):
    """The line means nothing, for this reason."""

    reason: str


class _Word(Struct, frozen=True, tag=True):
    pass


class Clear(_Word, frozen=True):
    """Forget what was said."""


class Retry(_Word, frozen=True):
    """Have the last message answered again."""


class Help(_Word, frozen=True):
    """Show the commands."""


class Leave(_Word, frozen=True):
    """End the program."""


Meant: TypeAlias = Say | System | Load | Save | Wrong | Clear | Retry | Help | Leave
_WORDS: Final[dict[str, Meant]] = {"/clear": Clear(), "/retry": Retry(), "/help": Help(), "/bye": Leave()}
_WITH_FILE: Final[dict[str, type[Load | Save]]] = {"/load": Load, "/save": Save}


_NO_TEXT: Final = Wrong("this is not UTF-8, so it was not sent")


def _is_text(typed: str) -> bool:
    """Whether all bytes that were typed are characters. Python has any other byte as half of a character."""
    return not any("\ud800" <= char <= "\udfff" for char in typed)


def read_message(read_line: Callable[[Literal["first", "next"]], str]) -> str:
    """One message, which may have several lines.

    A line that ends with a backslash goes on in the next line. Three quotation marks at the beginning go on to the next
    three quotation marks. `read_line` is told whether a line begins a message, and its `EOFError` ends the message.
    """
    text = read_line("first")
    try:
        if text.lstrip().startswith(_QUOTES):
            text = text.lstrip().removeprefix(_QUOTES)
            while _QUOTES not in text:
                text += "\n" + read_line("next")
            return text.replace(_QUOTES, "", 1).strip("\n")
        while text.endswith("\\"):
            text = text[:-1] + "\n" + read_line("next")
    except EOFError:
        return text.rstrip("\\")
    return text


def meaning(message: str) -> Meant | None:
    """What to do about a message. None for an empty one.

    A message that begins with a slash is a command. Whoever wants to say such a text begins it with a space.
    """
    if not message.strip():
        return None
    if not message.startswith("/"):
        return Say(message.strip()) if _is_text(message) else _NO_TEXT
    word, _, rest = message.partition(" ")
    word = word.strip().lower()
    return _command(_ELSEWHERE.get(word, word), rest.strip())


def _command(word: str, rest: str) -> Meant:
    if word == "/system" and not _is_text(rest):
        return _NO_TEXT
    if word == "/system":
        return System({"": None, "-": ""}.get(rest, rest))
    if word in _WITH_FILE:
        return _WITH_FILE[word](rest) if rest else Wrong(f"{word} needs the name of a file: {word} conversation.json")
    if word in _WORDS:
        return Wrong(f"{word} takes nothing behind it") if rest else _WORDS[word]
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists the commands."
    return Wrong(
        f"there is no command {word[:40]!r}; {hint} A message that begins with a slash needs a space before it."
    )
