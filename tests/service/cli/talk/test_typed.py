"""What a typed line of `neuron chat` means."""

from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from neuron_service.cli.talk.typed import (
    Clear,
    Help,
    Leave,
    Load,
    Meant,
    Retry,
    Save,
    Say,
    System,
    Wrong,
    meaning,
    read_message,
)

Which = Literal["first", "next"]


def typed(*lines: str) -> Callable[[Which], str]:
    rest: Iterator[str] = iter(lines)

    def read(_which: Which) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one line"], "one line"),
        (["first \\", "second \\", "third"], "first \nsecond \nthird"),
        (['"""', "def f():", "    return 1", '"""'], "def f():\n    return 1"),
        (['"""one line"""'], "one line"),
        (['"""first', 'second"""'], "first\nsecond"),
        (['"""cut', "off"], "cut\noff"),
        (["cut off \\"], "cut off "),
        (["pasted\nlines"], "pasted\nlines"),
    ],
)
def test_a_message_may_have_several_lines(lines: list[str], message: str) -> None:
    assert read_message(typed(*lines)) == message


def test_the_end_of_the_input_between_messages_is_an_end() -> None:
    with pytest.raises(EOFError):
        read_message(typed())


def test_the_first_line_of_a_message_can_be_told_from_the_next() -> None:
    asked: list[Which] = []
    lines = typed("a\\", "b")

    def read(which: Which) -> str:
        asked.append(which)
        return lines(which)

    read_message(read)
    assert asked == ["first", "next"]


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("", None),
        (" \n", None),
        ("Hi there ", Say("Hi there")),
        (" /etc/passwd is what?", Say("/etc/passwd is what?")),
        ("/system", System(None)),
        ("/system You are a poet.\nBe brief.", System("You are a poet.\nBe brief.")),
        ("/system -", System("")),
        ("/load a b.json", Load("a b.json")),
        ("/save a.json", Save("a.json")),
        ("/clear", Clear()),
        ("/CLEAR ", Clear()),
        ("/retry", Retry()),
        ("/help", Help()),
        ("/?", Help()),
        ("/bye", Leave()),
        ("/exit", Leave()),
    ],
)
def test_a_line_is_a_message_or_a_command(message: str, meant: Meant | None) -> None:
    assert meaning(message) == meant


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("/laod x", "there is no command '/laod'; did you mean /load?"),
        ("/etc/passwd is what?", "there is no command '/etc/passwd'; /help lists the commands. A message that begins"),
        ("/load", "/load needs the name of a file: /load conversation.json"),
        ("/bye now", "/bye takes nothing behind it"),
    ],
)
def test_a_command_that_is_none_says_what_to_do(message: str, reason: str) -> None:
    meant = meaning(message)
    assert isinstance(meant, Wrong)
    assert meant.reason.startswith(reason)
