"""The official client speaks the Responses API with a host over a real socket, in every way that the client has."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent, ToolParam
from pydantic import BaseModel, TypeAdapter

from neuron_lib import EngineDead, GenerationEvent, NeuronError
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import (
    Chat,
    Finished,
    FinishReason,
    Likely,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.wire import openai_responses
from tests.fakes.listening_host import ListeningHost, listening_host

pytestmark = [pytest.mark.anyio, pytest.mark.process]

A = "org/a"
JSON = {"content-type": "application/json"}
CALL = ToolCall(index=0, id="call_0", name="get_weather", arguments='{"city":"Paris"}')
OTHER_CALL = ToolCall(index=1, id="call_1", name="get_weather", arguments='{"city":"Rome"}')
WEATHER: ToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(BaseModel):
    name: str
    people: int


@contextmanager
def host_that_says(*said: str | GenerationEvent | NeuronError) -> Iterator[ListeningHost]:
    with listening_host({A: ScriptedModel(reply=said)}, resident=[A]) as host:
        yield host


def client_of(host: ListeningHost) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{host.port}/v1", max_retries=0)


def async_client_of(host: ListeningHost) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{host.port}/v1", max_retries=0)


def task_of(host: ListeningHost) -> Chat:
    (task,) = host.scripted.harness.requests
    assert isinstance(task, Chat)
    return task


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


def test_a_whole_reply() -> None:
    with host_that_says(ReasoningDelta("hm"), "Hi", " é") as host, client_of(host) as client:
        response = client.responses.create(
            model=A, input="hi", instructions="be kind", metadata={"k": "v"}, temperature=0.5, max_output_tokens=64
        )
        task = task_of(host)
    assert list(task.messages) == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert task.max_tokens == 64
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.output_text, kinds(response)) == ("Hi é", ["reasoning", "message"])
    assert (response.model, response.instructions, response.metadata) == (A, "be kind", {"k": "v"})
    assert (response.temperature, response.max_output_tokens) == (0.5, 64)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 3, 10)
    assert (
        response.usage.input_tokens_details.cached_tokens,
        response.usage.output_tokens_details.reasoning_tokens,
    ) == (
        0,
        0,
    )


async def test_a_whole_reply_to_the_asynchronous_client() -> None:
    with host_that_says("Hi", " é") as host:
        async with async_client_of(host) as client:
            response = await client.responses.create(model=A, input=[{"role": "user", "content": "hi"}])
    assert response.output_text == "Hi é"


STREAM = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def check_stream(events: Sequence[ResponseStreamEvent]) -> None:
    assert [event.type for event in events] == STREAM
    assert [event.sequence_number for event in events] == list(range(len(STREAM)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hi é"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hi é"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 10


def test_a_stream() -> None:
    with host_that_says(ReasoningDelta("hm"), "Hi", " é") as host, client_of(host) as client:
        check_stream(list(client.responses.create(model=A, input="hi", stream=True)))


async def test_a_stream_to_the_asynchronous_client() -> None:
    with host_that_says(ReasoningDelta("hm"), "Hi", " é") as host:
        async with async_client_of(host) as client:
            stream = await client.responses.create(model=A, input="hi", stream=True)
            check_stream([event async for event in stream])


def test_a_stream_that_the_client_puts_together() -> None:
    with (
        host_that_says(ReasoningDelta("hm"), "Hi", " é") as host,
        client_of(host) as client,
        client.responses.stream(model=A, input="hi") as stream,
    ):
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots == ["Hi", "Hi é"]
    assert final.output_text == "Hi é"


EVERYTHING = {
    "model": A,
    "input": "hi",
    "instructions": "be kind",
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
    "metadata": {"k": "v"},
    "store": False,
    "user": "u",
}


@pytest.mark.parametrize("reason", [*FinishReason, None])
def test_every_event_is_what_the_client_s_types_say(reason: FinishReason | None) -> None:
    """The client itself takes anything, and lets its user stumble over what is missing."""
    request = openai_responses.decode(json.dumps(EVERYTHING).encode(), headers=JSON, principal=None)
    encoder = request.encoder(unique="1", created=7)
    token = TokenLogprob(b"a", -1.0, (Likely(b"a", -1.0),))
    stream = encoder.opening()
    for event in (ReasoningDelta("hm"), TextDelta("a", logprobs=(token,)), CALL):
        stream += encoder.event(event)
    usage = Usage(prompt_tokens=7, completion_tokens=2)
    if reason is None:
        stream += encoder.error(EngineDead(A, "SIGSEGV"), usage)
    else:
        stream += encoder.ending(Finished(reasons=(reason,), usage=usage))
    types: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for frame in stream.split(b"\n\n")[:-1]:
        types.validate_json(frame.partition(b"\ndata: ")[2], strict=True)


CUT = Finished(
    reasons=(FinishReason.LENGTH,),
    usage=Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=3, reasoning_tokens=1),
)


def test_a_reply_that_was_cut_is_incomplete_to_the_client_whole_and_streamed() -> None:
    with host_that_says(ReasoningDelta("hm"), "Hel", CUT) as host, client_of(host) as client:
        response = client.responses.create(model=A, input="hi", max_output_tokens=2)
        *_, last = client.responses.create(model=A, input="hi", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"
    for told in (response, last.response):
        assert told.incomplete_details is not None
        assert (told.status, told.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert (told.output_text, [item.status for item in told.output]) == ("Hel", ["completed", "incomplete"])  # type: ignore[union-attr]  # not reasoning
        assert told.usage is not None
        assert told.usage.input_tokens_details.cached_tokens == 3
        assert told.usage.output_tokens_details.reasoning_tokens == 1


def test_a_message_that_was_cut_is_continued() -> None:
    with host_that_says(ReasoningDelta("hm"), "Hel", CUT) as host, client_of(host) as client:
        first = client.responses.create(model=A, input="hi", max_output_tokens=2)
        client.responses.create(model=A, input=[{"role": "user", "content": "hi"}, *first.output])  # type: ignore[list-item]  # as its documentation does
        *_, again = host.scripted.harness.requests
    assert isinstance(again, Chat)
    assert again.continue_final_message
    assert list(again.messages)[-1] == {"role": "assistant", "content": "Hel", "reasoning_content": "hm"}


def test_log_probabilities() -> None:
    with host_that_says("Hi", " é") as host, client_of(host) as client:
        asked: Any = {"model": A, "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
        response = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    tokens = [("Hi", [72, 105], ["Hi"]), (" é", [32, 195, 169], [" é"])]
    assert [(each.token, each.bytes, [top.token for top in each.top_logprobs]) for each in part.logprobs] == tokens
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [[token.token for token in each] for each in deltas] == [["Hi"], [" é"]]


def test_the_number_of_tokens_of_an_input() -> None:
    with host_that_says() as host, client_of(host) as client:
        counted = client.responses.input_tokens.count(model=A, input="hi", instructions="be kind")
    assert (counted.input_tokens, counted.object) == (len("system: be kind\nuser: hi\n"), "response.input_tokens")


# ------------------------------------------------------------------------------------------------------------- tools


def test_a_loop_of_tools_with_the_client_s_own_objects() -> None:
    with host_that_says(ReasoningDelta("hm"), TextDelta("\n\n"), CALL, OTHER_CALL) as host, client_of(host) as client:
        conversation: list[Any] = [{"role": "user", "content": "the weather?"}]
        first = client.responses.create(model=A, input=conversation, tools=[WEATHER], tool_choice="required")
        assert kinds(first) == ["reasoning", "function_call", "function_call"]
        conversation += first.output
        for item in first.output:
            if item.type == "function_call":
                assert item.name == "get_weather"
                city = json.loads(item.arguments)["city"]
                conversation.append(
                    {"type": "function_call_output", "call_id": item.call_id, "output": f"warm in {city}"}
                )
        client.responses.create(model=A, input=conversation, tools=[WEATHER])
        asked, again = host.scripted.harness.requests
    assert isinstance(asked, Chat)
    assert isinstance(again, Chat)
    assert asked.tool_choice.mode == "required"
    (tool,) = asked.tools
    assert (tool["type"], tool["function"]["name"], tool["function"]["strict"]) == ("function", "get_weather", True)
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in (CALL, OTHER_CALL)
    ]
    assert list(again.messages) == [
        {"role": "user", "content": "the weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "content": "warm in Paris", "tool_call_id": "call_0", "name": "get_weather"},
        {"role": "tool", "content": "warm in Rome", "tool_call_id": "call_1", "name": "get_weather"},
    ]


def test_calls_in_a_stream_that_the_client_puts_together() -> None:
    with (
        host_that_says(CALL, OTHER_CALL) as host,
        client_of(host) as client,
        client.responses.stream(model=A, input="hi", tools=[WEATHER]) as stream,
    ):
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert deltas == [CALL.arguments, OTHER_CALL.arguments]
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(call.call_id, call.parsed_arguments) for call in calls] == [
        ("call_0", {"city": "Paris"}),
        ("call_1", {"city": "Rome"}),
    ]


# ------------------------------------------------------------------------------------------------- structured output


def test_a_parsed_reply() -> None:
    with host_that_says('{"name":"Paris",', '"people":2}') as host, client_of(host) as client:
        response = client.responses.parse(model=A, input="a city", text_format=City)
        task = task_of(host)
    assert response.output_parsed == City(name="Paris", people=2)
    assert task.grammar is not None
    assert (task.grammar.kind, task.grammar.param) == ("json_schema", "text.format")
    assert json.loads(task.grammar.source)["required"] == ["name", "people"]


async def test_a_parsed_stream_to_the_asynchronous_client() -> None:
    with host_that_says('{"name":"Paris",', '"people":2}') as host:
        async with (
            async_client_of(host) as client,
            client.responses.stream(model=A, input="a city", text_format=City) as stream,
        ):
            final = await stream.get_final_response()
    assert final.output_parsed == City(name="Paris", people=2)


def test_calls_instead_of_a_parsed_reply() -> None:
    with host_that_says(TextDelta("\n"), CALL) as host, client_of(host) as client:
        response = client.responses.parse(model=A, input="a city", text_format=City, tools=[WEATHER])
    assert response.output_parsed is None
    assert kinds(response) == ["function_call"]


# ------------------------------------------------------------------------------------------------------------ errors


def test_a_reply_that_is_lost_half_way_is_an_error_to_the_client() -> None:
    told = list[ResponseStreamEvent]()
    with (
        host_that_says("Hel", EngineDead(A, "SIGSEGV")) as host,
        client_of(host) as client,
        pytest.raises(openai.APIError, match="SIGSEGV"),
    ):
        told.extend(client.responses.create(model=A, input="hi", stream=True))
    last = told[-1]
    assert last.type == "response.failed"
    assert last.response.usage is not None
    assert (last.response.status, last.response.output_text) == ("failed", "Hel")


def test_refusals_are_errors_that_name_the_parameter() -> None:
    with host_that_says("x") as host, client_of(host) as client:
        with pytest.raises(openai.BadRequestError) as chained:
            client.responses.create(model=A, input="hi", previous_response_id="resp_1")
        with pytest.raises(openai.BadRequestError) as hosted:
            client.responses.create(model=A, input="hi", tools=[{"type": "web_search"}])
        with pytest.raises(openai.NotFoundError) as unknown:
            client.responses.create(model="org/b", input="hi")
        with pytest.raises(openai.NotFoundError) as kept:
            client.responses.retrieve("resp_1")
        with pytest.raises(openai.NotFoundError):
            client.responses.delete("resp_1")
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel("resp_1")
    assert (chained.value.code, chained.value.param) == ("chained_conversation_not_supported", "previous_response_id")
    assert hosted.value.param == "tools[0].type"
    assert unknown.value.code == "model_not_found"
    assert "no response is kept here" in kept.value.message
