from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.text.prefill import Prefill, prefill_of

HI = {"role": "user", "content": "Hi"}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


def own(content: Any = "So", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def shown(prefill: Prefill | None) -> str:
    """The prompt that a template makes of the message, if it shows reasoning and parts."""
    assert prefill is not None
    message: Any = prefill.message
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else part.get("text", part.get("thinking")) for part in content)
    return prefill.cut(f"[{message.get('reasoning_content', '')}|{content or ''}]")


@pytest.mark.parametrize("messages", [[HI], [own(), HI], []])
@pytest.mark.parametrize("continues", [None, False])
def test_only_a_last_message_of_the_assistant_is_continued(messages: list[Any], *, continues: bool | None) -> None:
    assert prefill_of(messages, continues=continues) is None


@pytest.mark.parametrize("continues", [None, True])
def test_a_last_message_of_the_assistant_is_continued_unless_a_new_one_is_wanted(*, continues: bool | None) -> None:
    prefill = prefill_of([HI, own()], continues=continues)
    assert shown(prefill) == "[|So"
    assert prefill_of([HI, own()], continues=False) is None
    assert prefill_of([HI, own(), own()], continues=False) is None


@pytest.mark.parametrize(
    ("message", "prompt", "text"),
    [
        (own("So, "), "[|So, ", "So, "),
        (own([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "[|ab", "b"),
        (own(["a", "b"]), "[|ab", "b"),
        (own([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}]), "[|hmb", "b"),
        (own(reasoning_content="hm"), "[hm|So", "So"),
        (own(None), "[|", ""),
        (own(""), "[|", ""),
        (own([]), "[|", ""),
    ],
)
def test_a_prompt_ends_behind_the_last_text_of_the_message(message: Any, prompt: str, text: str) -> None:
    prefill = prefill_of([HI, message], continues=None)
    assert shown(prefill) == prompt
    assert prefill is not None
    assert (prefill.text, prefill.is_reasoning) == (text, False)


@pytest.mark.parametrize(
    ("message", "prompt"),
    [
        (own(None, reasoning_content="I th"), "[I th"),
        (own([{"type": "thinking", "thinking": "I th"}]), "[|I th"),
    ],
)
def test_a_message_that_is_only_reasoning_is_continued_there(message: Any, prompt: str) -> None:
    prefill = prefill_of([HI, message], continues=None)
    assert shown(prefill) == prompt
    assert prefill is not None
    assert prefill.is_reasoning


def test_the_message_of_the_client_is_not_changed() -> None:
    parts = [{"type": "text", "text": "a"}]
    shown(prefill_of([own(parts)], continues=True))
    assert parts == [{"type": "text", "text": "a"}]


def test_a_template_that_does_not_show_the_text_is_found_out() -> None:
    prefill = prefill_of([own()], continues=None)
    assert prefill is not None
    with pytest.raises(InvalidRequest, match="does not show the text") as caught:
        prefill.cut("[|So]")
    assert caught.value.param == "messages"


def test_of_a_text_that_is_shown_twice_the_last_is_continued_and_nothing_is_added_to_the_other() -> None:
    prefill = prefill_of([own()], continues=None)
    assert prefill is not None
    content = prefill.message["content"]
    assert prefill.cut(f"{content}; {content}.") == "So; So"


@pytest.mark.parametrize(
    ("messages", "continues", "param"),
    [
        ([HI], True, "continue_final_message"),
        ([], True, "continue_final_message"),
        ([HI, own(tool_calls=CALLS)], True, "continue_final_message"),
        ([HI, own(), own()], None, "messages"),
        ([HI, own(), own()], True, "messages"),
    ],
)
def test_what_cannot_be_continued_is_refused(messages: list[Any], continues: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prefill_of(messages, continues=continues)
    assert caught.value.param == param


def test_a_message_that_calls_tools_is_complete() -> None:
    assert prefill_of([HI, own(tool_calls=CALLS)], continues=None) is None
    assert prefill_of([HI, own(), own(tool_calls=CALLS)], continues=None) is None
