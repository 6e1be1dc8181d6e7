"""How a reply is shown."""

import io
import json

import pytest
from msgspec import structs

from neuron_service.cli.talk.one_answer import answer_as_json, answer_once
from neuron_service.cli.talk.pieces import Message, Order, Piece, SpeakerFailed, Thought
from neuron_service.cli.talk.screen import Screen, harmless, take_reply
from tests.fakes.scripted_speaker import ENDED, ScriptedSpeaker

CUT = structs.replace(ENDED, reason="length")
ORDER = Order(messages=(Message(role="user", content="Hi"),))


def shown(speaker: ScriptedSpeaker, *, is_terminal: bool) -> str:
    out = io.StringIO()
    take_reply(speaker, ORDER, Screen(out, is_terminal=is_terminal))
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_the_reply_is_the_answer_alone_with_a_line_end() -> None:
    assert shown(ScriptedSpeaker([Thought("hm"), "Hel", "lo\x1b[2J"]), is_terminal=False) == "Hello\x1b[2J\n"


def test_on_a_terminal_reasoning_is_set_apart_and_nothing_steers_the_terminal() -> None:
    text = shown(ScriptedSpeaker([Thought("hm\x07"), "Hel", "lo\x1b[2J\x9b\u202e"]), is_terminal=True)
    assert text == "\033[2m(thinking) hm\033[0m\n\nHello[2J\n"


def test_a_reply_that_ends_with_a_line_end_gets_no_second_one() -> None:
    assert shown(ScriptedSpeaker(["Hello\n"]), is_terminal=True) == "Hello\n"


@pytest.mark.parametrize("text", ["a\tb\nc", "é", "👩‍💻", "می‌خواهم", "漢字"])
def test_text_of_any_language_is_harmless(text: str) -> None:
    assert harmless(text) == text


def test_an_interrupt_ends_the_reply_and_keeps_what_was_said() -> None:
    out = io.StringIO()
    speaker = ScriptedSpeaker(["Hel", KeyboardInterrupt()])
    reply = take_reply(speaker, ORDER, Screen(out, is_terminal=True))
    assert (reply.text, reply.ended, speaker.running) == ("Hel", None, 0)
    assert out.getvalue() == "Hel\n"


def test_a_reply_that_fails_half_way_ends_its_line_before_the_error() -> None:
    out = io.StringIO()
    with pytest.raises(SpeakerFailed):
        take_reply(ScriptedSpeaker(["Hel", SpeakerFailed("the engine died")]), ORDER, Screen(out, is_terminal=False))
    assert out.getvalue() == "Hel\n"


@pytest.mark.parametrize(
    ("script", "wants_numbers", "said"),
    [
        (["Hi"], False, ""),
        (["Hi", CUT], False, "neuron: the reply was cut at its limit of tokens; --max-tokens gives it more\n"),
        (["Hi"], True, "neuron: 10 tokens read, 4 of them remembered (60/s), 5 written (20.0/s)\n"),
    ],
)
def test_what_is_said_about_an_answer_goes_to_stderr(
    script: list[str | Piece], *, wants_numbers: bool, said: str
) -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, is_terminal=False)
    assert answer_once(ScriptedSpeaker(script), ORDER, screen, err=err, wants_numbers=wants_numbers) == 0
    assert (out.getvalue(), err.getvalue()) == ("Hi\n", said)


def test_an_interrupted_answer_has_the_exit_status_of_an_interrupt() -> None:
    screen = Screen(io.StringIO(), is_terminal=False)
    assert (
        answer_once(ScriptedSpeaker([KeyboardInterrupt()]), ORDER, screen, err=io.StringIO(), wants_numbers=False)
        == 130
    )


def test_an_answer_as_json_is_one_object_with_everything() -> None:
    out = io.StringIO()
    assert answer_as_json(ScriptedSpeaker([Thought("hm"), "Hel", "lo"]), ORDER, out) == 0
    assert json.loads(out.getvalue()) == {
        "model": "acme/model",
        "text": "Hello",
        "reasoning": "hm",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cached_tokens": 4,
            "prefill_ms": 100,
            "decode_ms": 200,
        },
    }
