"""The loop of `neuron chat`: what is typed, what the model is asked, and what is shown."""

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from msgspec import structs

from neuron_service.cli.talk.conversation import Conversation
from neuron_service.cli.talk.pieces import Message, Order, SpeakerFailed
from neuron_service.cli.talk.repl import Repl
from neuron_service.cli.talk.screen import Screen
from tests.fakes.scripted_speaker import ENDED, ScriptedSpeaker

CUT = structs.replace(ENDED, reason="length")


def talk(
    speaker: ScriptedSpeaker, *lines: str | BaseException, folder: Path, system: str | None = None
) -> tuple[str, Conversation]:
    """Type these lines and leave. Returns what was shown, and the conversation."""
    rest: Iterator[str | BaseException] = iter(lines)
    out = io.StringIO()

    def read(_which: Literal["first", "next"]) -> str:
        line = next(rest, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    messages = () if system is None else (Message(role="system", content=system),)
    repl = Repl(
        speaker,
        Order(messages=messages, max_tokens=9),
        screen=Screen(out, is_terminal=False),
        read_line=read,
        folder=folder,
    )
    repl.run()
    return out.getvalue(), repl.conversation


def asked(speaker: ScriptedSpeaker) -> list[list[str]]:
    return [[f"{each.role}: {each.content}" for each in order.messages] for order in speaker.orders]


def test_each_message_is_answered_with_all_that_was_said_before(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["Hello."], ["Bye."])
    shown, _ = talk(speaker, "Hi", "", "Ciao", folder=tmp_path, system="Be brief.")
    assert shown == "Hello.\nBye.\n"
    assert asked(speaker) == [
        ["system: Be brief.", "user: Hi"],
        ["system: Be brief.", "user: Hi", "assistant: Hello.", "user: Ciao"],
    ]
    assert [order.max_tokens for order in speaker.orders] == [9, 9]


def test_an_interrupt_stops_the_reply_and_not_the_program(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["Once upon", KeyboardInterrupt()], ["Bye."])
    shown, _ = talk(speaker, "Tell me", "Ciao", folder=tmp_path)
    assert shown == "Once upon\nstopped\nBye.\n"
    assert asked(speaker)[1] == ["user: Tell me", "assistant: Once upon", "user: Ciao"]


def test_a_reply_that_was_stopped_before_its_first_word_takes_its_message_along(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker([KeyboardInterrupt()], ["Bye."])
    talk(speaker, "Tell me", "Ciao", folder=tmp_path)
    assert asked(speaker)[1] == ["user: Ciao"]


def test_an_interrupt_while_typing_says_how_to_leave(tmp_path: Path) -> None:
    shown, _ = talk(ScriptedSpeaker(["Hello."]), KeyboardInterrupt(), "Hi", folder=tmp_path)
    assert shown == "Ctrl-D or /bye leaves\nHello.\n"


def test_a_reply_that_fails_is_said_and_leaves_the_conversation_as_it_was(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["Hel", SpeakerFailed("the engine died")], ["Bye."])
    shown, _ = talk(speaker, "Hi", "Ciao", folder=tmp_path)
    assert shown == "Hel\nthe engine died (the message is not part of the conversation)\nBye.\n"
    assert asked(speaker)[1] == ["user: Ciao"]


def test_a_reply_that_was_cut_says_so(tmp_path: Path) -> None:
    assert talk(ScriptedSpeaker(["Hel", CUT]), "Hi", folder=tmp_path)[0] == (
        "Hel\nthe reply was cut at its limit of tokens\n"
    )


def test_retry_answers_the_last_message_again(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["One."], ["Two."])
    _, conversation = talk(speaker, "Hi", "/retry", folder=tmp_path)
    assert asked(speaker) == [["user: Hi"], ["user: Hi"]]
    assert [each.content for each in conversation.turns] == ["Hi", "Two."]


def test_a_retry_that_fails_leaves_the_first_answer(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["One."], [SpeakerFailed("too busy")])
    _, conversation = talk(speaker, "Hi", "/retry", folder=tmp_path)
    assert [each.content for each in conversation.turns] == ["Hi", "One."]


def test_the_system_prompt_is_shown_set_and_removed(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["Ja."], ["Yes."])
    shown, _ = talk(speaker, "/system", "/system Be German.", "Hi", "/system -", "Hi", folder=tmp_path)
    assert shown.splitlines() == [
        "there is no system prompt",
        "the system prompt: Be German.",
        "Ja.",
        "there is no system prompt",
        "Yes.",
    ]
    assert asked(speaker)[0] == ["system: Be German.", "user: Hi"]
    assert asked(speaker)[1][0] == "user: Hi"


def test_clear_forgets_what_was_said_and_keeps_the_system_prompt(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["a"], ["b"])
    talk(speaker, "Hi", "/clear", "Ho", folder=tmp_path, system="S")
    assert asked(speaker)[1] == ["system: S", "user: Ho"]


def test_a_conversation_is_saved_for_this_user_alone_and_loaded_again(tmp_path: Path) -> None:
    shown, saved = talk(ScriptedSpeaker(["Hello."]), "Hi", "/save talk.json", folder=tmp_path, system="S")
    file = tmp_path / "talk.json"
    assert shown == f"Hello.\nsaved to {file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["model"] == "acme/model"
    shown, loaded = talk(ScriptedSpeaker(), "/load talk.json", folder=tmp_path)
    assert shown == "1 message and its reply are back\n"
    assert loaded == saved


def test_a_saved_conversation_can_be_saved_again_and_no_other_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    shown, _ = talk(
        ScriptedSpeaker(["A."], ["B."]), "Hi", "/save a.json", "Ho", "/save a.json", "/save notes.txt", folder=tmp_path
    )
    assert shown.splitlines()[-1] == f"{tmp_path}/notes.txt is there and is no saved conversation; give another name"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(json.loads((tmp_path / "a.json").read_text())["messages"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "notes.txt"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/load absent.json", "absent.json cannot be read: No such file or directory"),
        ("/load .", " cannot be read: Is a directory"),
        ("/load bad.json", "bad.json cannot be used: it is no saved conversation: "),
        ("/save no/where.json", "no/where.json cannot be written: No such file or directory"),
        ("/nothing", "there is no command '/nothing'; /help lists the commands."),
        ("/help", "/system [TEXT]   show the system prompt"),
    ],
)
def test_a_command_that_cannot_be_done_ends_nothing(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "bad.json").write_text("{}")
    shown, _ = talk(ScriptedSpeaker(["Hello."]), line, "Hi", folder=tmp_path)
    assert said in shown
    assert shown.endswith("Hello.\n")


def test_bye_leaves(tmp_path: Path) -> None:
    speaker = ScriptedSpeaker()
    talk(speaker, "/bye", "Hi", folder=tmp_path)
    assert speaker.orders == []


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.json", "a\0b", "no/such/folder/a.json", "n" * 300])
@pytest.mark.parametrize("command", ["/save", "/load"])
def test_a_file_that_cannot_be_ends_nothing(command: str, name: str, tmp_path: Path) -> None:
    shown, conversation = talk(ScriptedSpeaker(["A."]), "Hi", f"{command} {name}", folder=tmp_path)
    assert len(shown.splitlines()) == 2
    assert len(conversation.turns) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("typed", ["caf\udce9", "/system caf\udce9"])
def test_what_is_not_utf8_is_not_sent_and_ends_nothing(typed: str, tmp_path: Path) -> None:
    speaker = ScriptedSpeaker(["A."])
    shown, conversation = talk(speaker, typed, "Hi", folder=tmp_path)
    assert shown.splitlines() == ["this is not UTF-8, so it was not sent", "A."]
    assert conversation.system is None
    assert asked(speaker) == [["user: Hi"]]
