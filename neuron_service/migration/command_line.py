"""Finds the command of `llama-server` in a text that a shell or a unit could run."""

import re
import shlex
from pathlib import PurePosixPath
from typing import Final

from msgspec import Struct

from neuron_lib.shown import clip

__all__ = ("Command", "OtherProgram", "read_command", "split_words")

_LONGEST: Final = 65_536
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


class Command(Struct, frozen=True, kw_only=True):
    """A command of `llama-server`: the variables in front of it, as NAME=VALUE, and what follows it."""

    variables: tuple[str, ...] = ()
    arguments: tuple[str, ...]


class OtherProgram(ValueError):
    """A command that runs something else. It has the variables in front of it, and the program with its arguments."""

    def __init__(self, variables: tuple[str, ...], words: tuple[str, ...]) -> None:
        program = clip(PurePosixPath(words[0]).name)
        super().__init__(f"it runs {program} and not llama-server; only GGUF models of llama.cpp are served here")
        self.variables: Final = variables
        self.words: Final = words


def split_words(text: str) -> list[str]:
    """The words of a text that a shell could run, without remarks. Raises ValueError for one that cannot be read."""
    if len(text) > _LONGEST:
        msg = f"the command is longer than {_LONGEST} characters"
        raise ValueError(msg)
    try:
        return shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        msg = f"it cannot be read: {str(error).lower()}"
        raise ValueError(msg) from None


def read_command(text: str) -> Command:
    """The command of `llama-server` in a text that a shell could run, with remarks and escaped ends of lines.

    Raises ValueError for a text that cannot be read, and `OtherProgram` for another program, such as a container.
    """
    words = split_words(text)
    variables: list[str] = []
    for index, word in enumerate(words):
        program = PurePosixPath(word).name
        if _VARIABLE.match(word):
            variables.append(word)
        elif program.startswith("llama-server"):
            return Command(variables=tuple(variables), arguments=tuple(words[index + 1 :]))
        elif program not in {"exec", "env"}:
            raise OtherProgram(tuple(variables), tuple(words[index:]))
    msg = "it has no command of llama-server"
    raise ValueError(msg)
