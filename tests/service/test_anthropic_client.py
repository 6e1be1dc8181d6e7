"""The official client of Anthropic's API asks the whole service, over sockets, and reads its answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import anthropic
import pytest
from anthropic.types import Message, MessageParam, ToolParam
from pydantic import BaseModel

from neuron_lib.errors import EngineDead, NeuronError
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import (
    Chat,
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Tokenize,
    ToolCall,
    ToolChoice,
    Usage,
)
from tests.fakes.listening_host import ListeningHost, listening_host

pytestmark = pytest.mark.process

Item: TypeAlias = str | GenerationEvent | NeuronError

A = "org/a"
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
WEATHER: ToolParam = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = tuple(
    ToolCall(index=i, id=f"call_1_{i}", name="weather", arguments=f'{{"city":"{city}"}}')
    for i, city in enumerate(["Rome", "Oslo"])
)
TOOL_USE = Finished(reasons=(FinishReason.TOOL_CALLS,), usage=USAGE)


@contextmanager
def host_of(reply: Sequence[Item] = ("Hello", ", ", "world"), **script: Any) -> Iterator[ListeningHost]:
    with listening_host({A: ScriptedModel(reply=reply, **script)}, resident=[A]) as host:
        yield host


def sync_client(host: ListeningHost) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="any", base_url=f"http://127.0.0.1:{host.port}", max_retries=0)


@contextmanager
def client_of(reply: Sequence[Item] = ("Hello", ", ", "world"), **script: Any) -> Iterator[anthropic.Anthropic]:
    with host_of(reply, **script) as host, sync_client(host) as client:
        yield client


def task_of(host: ListeningHost) -> Chat:
    """What the model was asked for last."""
    task = host.scripted.harness.requests[-1]
    assert isinstance(task, Chat)
    return task


def shown(message: Message) -> list[tuple[str, Any]]:
    """The type and the content of each block."""
    return [
        (block.type, block.input if block.type == "tool_use" else getattr(block, block.type))
        for block in message.content
    ]


def test_the_client_reads_a_whole_reply() -> None:
    with client_of() as client:
        message = client.messages.create(model=A, max_tokens=9, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", A)
    assert message.id.startswith("msg_")
    assert shown(message) == [("text", "Hello, world")]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 3)


def test_the_client_finds_the_id_of_its_request_in_replies_and_errors() -> None:
    headers = {"x-request-id": "mine"}
    with client_of() as client:
        message = client.messages.create(model=A, messages=HI, max_tokens=9, extra_headers=headers)
        assert message._request_id == "mine"
        with pytest.raises(anthropic.NotFoundError) as refused:
            client.messages.create(model="org/none", messages=HI, max_tokens=9, extra_headers=headers)
        assert refused.value.request_id == "mine"


def test_the_client_adds_a_stream_up_to_the_same_message() -> None:
    with client_of() as client:
        whole = client.messages.create(model=A, max_tokens=9, messages=HI)
        with client.messages.stream(model=A, max_tokens=9, messages=HI) as stream:
            texts = list(stream.text_stream)
            message = stream.get_final_message()
    assert texts == ["Hello", ", ", "world"]
    assert message.to_dict(exclude_none=True) | {"id": ""} == whole.to_dict(exclude_none=True) | {"id": ""}


def test_the_client_reads_the_raw_events_of_a_stream() -> None:
    with client_of() as client:
        events = client.messages.create(model=A, max_tokens=9, messages=HI, stream=True)
        types = [event.type for event in events]
    assert types == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.anyio
async def test_the_async_client_reads_whole_replies_and_streams() -> None:
    with host_of() as host:
        address = f"http://127.0.0.1:{host.port}"
        async with anthropic.AsyncAnthropic(auth_token="any", base_url=address, max_retries=0) as client:  # noqa: S106 - no secret
            message = await client.messages.create(model=A, max_tokens=9, messages=HI)
            async with client.messages.stream(model=A, max_tokens=9, messages=HI) as stream:
                assert [text async for text in stream.text_stream] == ["Hello", ", ", "world"]
                assert shown(await stream.get_final_message()) == shown(message) == [("text", "Hello, world")]


@pytest.mark.parametrize("streams", [False, True])
def test_the_client_reads_thinking_text_and_parallel_calls(*, streams: bool) -> None:
    reply: list[Item] = [ReasoningDelta("H"), ReasoningDelta("m."), "Let me look.", *CALLS, TOOL_USE]
    with client_of(reply) as client:
        arguments: dict[str, Any] = {
            "model": A,
            "max_tokens": 2048,
            "messages": HI,
            "tools": [WEATHER],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }
        if streams:
            with client.messages.stream(**arguments) as stream:
                message: Message = stream.get_final_message()
        else:
            message = client.messages.create(**arguments)
    assert shown(message) == [
        ("thinking", "Hm."),
        ("text", "Let me look."),
        ("tool_use", {"city": "Rome"}),
        ("tool_use", {"city": "Oslo"}),
    ]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (3, 4)


def test_the_blocks_of_a_reply_go_back_with_the_results_of_the_tools() -> None:
    with host_of((ReasoningDelta("Hm."), "Let me look.", *CALLS, TOOL_USE)) as host, sync_client(host) as client:
        thinking = {"type": "adaptive"}
        first = client.messages.create(
            model=A, max_tokens=99, messages=HI, tools=[WEATHER], extra_body={"thinking": thinking}
        )
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "sun"}]}
            for block in first.content
            if block.type == "tool_use"
        ]
        history: list[MessageParam] = [
            *HI,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
        ]
        client.messages.create(model=A, max_tokens=99, messages=history, tools=[WEATHER], system="Be brief.")
        messages = list(task_of(host).messages)
    calls = [
        {"id": call.id, "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        for call, city in zip(CALLS, ["Rome", "Oslo"], strict=True)
    ]
    assert messages == [
        {"role": "system", "content": "Be brief."},
        *HI,
        {"role": "assistant", "content": "Let me look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1_0", "name": "weather", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_1_1", "name": "weather", "content": "sun"},
        {"role": "user", "content": "So?"},
    ]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice(mode="required")),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            ToolChoice("required", "weather", False),
        ),
        ({"type": "none"}, ToolChoice(mode="none")),
    ],
)
def test_the_client_s_choice_of_tools_reaches_the_model(choice: Any, wanted: ToolChoice) -> None:
    with host_of() as host, sync_client(host) as client:
        client.messages.create(model=A, max_tokens=9, messages=HI, tools=[WEATHER], tool_choice=choice)
        assert task_of(host).tool_choice == wanted


def test_the_client_parses_a_reply_in_the_shape_of_a_model() -> None:
    class Answer(BaseModel):
        city: str

    with host_of(('{"city":', '"Rome"}')) as host, sync_client(host) as client:
        message = client.messages.parse(model=A, max_tokens=9, messages=HI, output_format=Answer)
        grammar = task_of(host).grammar
    assert message.parsed_output == Answer(city="Rome")
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert '"city"' in grammar.source


def test_the_client_is_told_which_stop_sequence_was_found() -> None:
    end = Finished(reasons=(FinishReason.STOP,), usage=USAGE, stop_strings=("END",))
    with client_of(("Hello", end)) as client:
        message = client.messages.create(model=A, max_tokens=9, messages=HI, stop_sequences=["END"])
        with client.messages.stream(model=A, max_tokens=9, messages=HI, stop_sequences=["END"]) as stream:
            streamed = stream.get_final_message()
    for each in (message, streamed):
        assert (each.stop_reason, each.stop_sequence) == ("stop_sequence", "END")


def test_a_wrong_value_is_the_client_s_error_for_it() -> None:
    with client_of() as client, pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=A, max_tokens=0, messages=HI)
    assert caught.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "max_tokens: Expected `int` >= 1",
            "details": {"error_code": "invalid_request_body"},
            "param": "max_tokens",
        },
        "request_id": None,
    }


def test_an_image_for_a_model_that_reads_text_is_refused_and_not_dropped() -> None:
    image: Any = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    with client_of() as client, pytest.raises(anthropic.BadRequestError, match="nothing is fetched"):
        client.messages.create(model=A, max_tokens=9, messages=[{"role": "user", "content": [image]}])


def test_an_unknown_model_is_not_found() -> None:
    with client_of() as client, pytest.raises(anthropic.NotFoundError, match="not loaded on this host"):
        client.messages.create(model="org/b", max_tokens=9, messages=HI)


def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_search_for() -> None:
    with client_of(prompt_tokens=2000, n_ctx=2000) as client, pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=A, max_tokens=9, messages=HI)
    assert "prompt is too long: 2000 tokens > 2000 maximum" in str(caught.value)
    assert caught.value.error_code == "context_length_exceeded"


def test_a_reply_that_is_lost_half_way_raises_from_the_stream() -> None:
    with client_of(("Hel", EngineDead(A, "SIGSEGV"))) as client:
        with (
            client.messages.stream(model=A, max_tokens=9, messages=HI) as stream,
            pytest.raises(anthropic.APIStatusError, match="SIGSEGV"),
        ):
            stream.until_done()
        assert shown(stream.current_message_snapshot) == [("text", "Hel")]


def test_the_tokens_of_a_message_are_counted_without_making_it() -> None:
    with host_of() as host, sync_client(host) as client:
        count = client.messages.count_tokens(model=A, messages=HI, system="Be brief.", tools=[WEATHER])
        task = host.scripted.harness.requests[-1]
    assert isinstance(task, Tokenize)
    assert count.input_tokens == len("system: Be brief.\nuser: hi\n")


def test_a_count_of_tokens_is_refused_where_the_message_would_be() -> None:
    with client_of() as client, pytest.raises(anthropic.BadRequestError, match="tool_choice: there are no tools"):
        client.messages.count_tokens(model=A, messages=HI, tool_choice={"type": "any"})


def test_the_client_s_tool_runner_goes_on_without_a_thread_which_nobody_keeps_here() -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sun in {city}"

    with host_of((*CALLS, TOOL_USE)) as host, sync_client(host) as client:
        runner = client.beta.messages.tool_runner(
            model=A, max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=[weather], max_iterations=2
        )
        assert [message.stop_reason for message in runner] == ["tool_use"] * 2
        results = [message["content"] for message in task_of(host).messages if message["role"] == "tool"]
    assert results == ["sun in Rome", "sun in Oslo"]
