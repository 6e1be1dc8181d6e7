"""What a server is asked. For a neuron, its own decoders read the task back."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, RequestRejected, UnsupportedCapability, WrongModality
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    Embed,
    Grammar,
    Rerank,
    SamplingParams,
    Task,
    Tokenize,
    ToolChoice,
    UnreadArray,
    UnreadObject,
)
from neuron_lib.upstream.api import LLAMA_SERVER, NEURON, OPENAI, UpstreamApi
from neuron_lib.upstream.bodies import UpstreamCall, call_of, refuse_if_impossible
from neuron_lib.wire import openai_chat, openai_completions, openai_embeddings, rerank, tokens

MESSAGES = ({"role": "user", "content": "Hi"},)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
HEADERS = {"content-type": "application/json"}
SAMPLING = SamplingParams(
    temperature=0.5,
    top_k=4,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.8,
    top_n_sigma=1.0,
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    presence_penalty=-0.1,
    repeat_last_n=32,
    xtc_probability=0.1,
    xtc_threshold=0.2,
    dry_multiplier=0.5,
    dry_base=1.5,
    dry_allowed_length=3,
    dry_penalty_last_n=64,
    dry_sequence_breakers=("\n",),
    seed=7,
    logit_bias={3: -5.0, 4: 2.5},
    min_tokens=2,
    ignore_eos=True,
    stop_token_ids=(5,),
)


def chat(**keys: Any) -> Chat:
    return Chat(**{"model_id": "org/model", "messages": MESSAGES, **keys})


def read_back(task: Task) -> tuple[Task, UpstreamCall]:
    """The task that a neuron reads in what it is asked for this one."""
    call = call_of(task, model="org/model", api=NEURON)
    headers = HEADERS | ({"x-include-thinking": "1"} if call.shows_thinking else {})
    decode: Any = {
        "/v1/chat/completions": openai_chat.decode,
        "/v1/completions": openai_completions.decode,
        "/v1/embeddings": openai_embeddings.decode,
        "/v1/rerank": rerank.decode,
        "/tokenize": tokens.decode_tokenize,
        "/detokenize": tokens.decode_detokenize,
        "/apply-template": tokens.decode_apply_template,
    }[call.path]
    found: Task = decode(call.body, headers=headers, principal=None).task
    return found, call


@pytest.mark.parametrize(
    "task",
    [
        chat(),
        chat(sampling=SAMPLING, max_tokens=5, stop=("a", "b"), choices=2, top_logprobs=3),
        chat(top_logprobs=0),
        chat(messages=UnreadArray(b'[{"role":"user","content":[{"type":"text","text":"Hi"}]}]')),
        chat(tools=(TOOL,)),
        chat(tools=UnreadArray(json.dumps([TOOL]).encode()), tool_choice=ToolChoice("required", "f", parallel=False)),
        chat(tools=(TOOL,), tool_choice=ToolChoice("required")),
        chat(grammar=Grammar("json_schema", '{"type":"array"}')),
        chat(grammar=Grammar("json_schema", '{"type":"object"}')),
        chat(grammar=Grammar("regex", "a+")),
        chat(grammar=Grammar("lark", "start: /a/")),
        chat(reasoning_budget=64),
        chat(include_thinking=True),
        chat(continue_final_message=True),
        Complete(model_id="org/model", prompt="Hi", max_tokens=3, suffix="!", echo=True),
        Complete(model_id="org/model", prompt=(1, 2), more_prompts=((3,),), max_tokens=3, sampling=SAMPLING),
        Complete(model_id="org/model", prompt="Hi", max_tokens=3, top_logprobs=2, stop=("x",), choices=3),
        Complete(model_id="org/model", prompt="Hi", max_tokens=3, grammar=Grammar("json_schema", '{"type":"array"}')),
        Embed(model_id="org/model", inputs=("a", "b"), dimensions=4),
        Embed(model_id="org/model", inputs=((1, 2),)),
        Rerank(model_id="org/model", query="q", documents=("a", "b")),
        Tokenize(model_id="org/model", prompt="Hi", add_special=False, parse_special=False, wants_pieces=True),
        Tokenize(model_id="org/model", prompt="Hi"),
        Detokenize(model_id="org/model", tokens=(1, 2)),
    ],
)
def test_a_neuron_reads_the_same_task(task: Task) -> None:
    found, _ = read_back(task)
    if isinstance(found, Chat) and isinstance(task, Chat):
        said = dict(found.template_kwargs)
        assert {name: said[name] for name in task.template_kwargs} == dict(task.template_kwargs)
        found = replace(found, template_kwargs=task.template_kwargs)
        if task.continue_final_message is None:
            found = replace(found, continue_final_message=None)
        if task.tools and not isinstance(task.tools, UnreadArray):
            assert list(found.tools) == list(task.tools)
            found = replace(found, tools=task.tools)
    assert found == task


@pytest.mark.parametrize("wants_text", [True, False])
def test_a_neuron_reads_the_chat_whose_tokens_or_text_are_asked(wants_text: bool) -> None:  # noqa: FBT001 - a parameter
    found, call = read_back(Tokenize(model_id="org/model", prompt=chat(), wants_text=wants_text))
    assert isinstance(found, Tokenize)
    assert isinstance(found.prompt, Chat)
    assert list(found.prompt.messages) == list(MESSAGES)
    assert call.path == ("/apply-template" if wants_text else "/tokenize")


def test_the_arguments_of_the_template_reach_a_neuron() -> None:
    words = UnreadObject(b'{"enable_thinking":true,"thinking_budget":9,"documents":[{"a":1}],"x":{"y":2}}')
    found, _ = read_back(chat(template_kwargs=words))
    assert isinstance(found, Chat)
    assert dict(found.template_kwargs) == dict(words)


def body(task: Task, api: UpstreamApi = OPENAI) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call_of(task, model="theirs", api=api).body)
    return found


def test_a_server_of_openai_gets_the_names_that_it_knows() -> None:
    sampling = SamplingParams(temperature=-1.0, top_p=0.5, seed=1, logit_bias={3: 1.0})
    found = body(chat(sampling=sampling, max_tokens=4, template_kwargs={"enable_thinking": False}))
    assert found == {
        "model": "theirs",
        "messages": list(MESSAGES),
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 1,
        "logit_bias": {"3": 1.0},
        "max_completion_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_llama_server_gets_its_own_names() -> None:
    found = body(chat(sampling=SamplingParams(repetition_penalty=1.2), max_tokens=4), LLAMA_SERVER)
    assert (found["repeat_penalty"], found["max_tokens"]) == (1.2, 4)


def test_a_field_below_another_one_is_written_there() -> None:
    api = UpstreamApi(grammars={"regex": "structured_outputs.regex"})
    assert body(chat(grammar=Grammar("regex", "a+")), api)["structured_outputs"] == {"regex": "a+"}


@pytest.mark.parametrize(
    ("words", "effort"),
    [
        ({"enable_thinking": True, "thinking": True, "thinking_mode": "enabled", "reasoning_effort": "high"}, "high"),
        ({"enable_thinking": False, "thinking": False, "thinking_mode": "disabled"}, "none"),
        ({}, None),
        ({"enable_thinking": False}, None),
    ],
)
def test_a_server_without_template_arguments_is_told_how_much_to_reason(
    words: dict[str, Any], effort: str | None
) -> None:
    assert body(chat(template_kwargs=words)).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("task", "param", "api"),
    [
        (chat(sampling=SamplingParams(top_k=4)), "top_k", OPENAI),
        (chat(sampling=SamplingParams(stop_token_ids=(1,))), "stop_token_ids", LLAMA_SERVER),
        (chat(grammar=Grammar("regex", "a", "guided_regex")), "guided_regex", OPENAI),
        (chat(grammar=Grammar("lark", "start: /a/")), "lark", OPENAI),
        (chat(template_kwargs={"x": 1}), "chat_template_kwargs.x", OPENAI),
        (chat(template_kwargs={"enable_thinking": True, "thinking": True}), "enable_thinking", OPENAI),
        (chat(reasoning_budget=5), "thinking_budget", OPENAI),
        (chat(continue_final_message=True), "continue_final_message", OPENAI),
        (Complete(model_id="m", prompt="a", more_prompts=("b",)), "prompt", LLAMA_SERVER),
        (Complete(model_id="m", prompt="a", suffix="b"), "suffix", LLAMA_SERVER),
        (Complete(model_id="m", prompt="a", grammar=Grammar("json_schema", "{}")), "response_format", OPENAI),
        (Complete(model_id="m", prompt=(1,)), "prompt", UpstreamApi(token_prompts=False)),
        (chat(choices=2), "n", UpstreamApi(choices=False)),
        (chat(sampling=SamplingParams(temperature=float("nan"))), "temperature", OPENAI),
    ],
)
def test_what_a_server_does_not_know_is_refused_by_its_name(task: Task, param: str, api: UpstreamApi) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call_of(task, model="theirs", api=api)
    assert caught.value.param == param
    assert "Hi" not in caught.value.log_message


IMAGE = ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},)


@pytest.mark.parametrize(
    ("task", "capabilities", "error"),
    [
        (chat(messages=IMAGE), (), UnsupportedCapability),
        (chat(messages=IMAGE), ("text",), UnsupportedCapability),
        (Tokenize(model_id="m", prompt="a"), (), UnsupportedCapability),
        (Rerank(model_id="m", query="q", documents=("d",)), (), UnsupportedCapability),
        (Embed(model_id="m", inputs=("a",)), ("text",), UnsupportedCapability),
        (Embed(model_id="m", inputs=()), (), InvalidRequest),
        (chat(), ("embeddings",), WrongModality),
        (chat(adapter="lora"), (), UnsupportedCapability),
        (chat(stop=("",)), (), InvalidRequest),
    ],
)
def test_what_no_server_needs_to_be_asked_is_refused(
    task: Task, capabilities: tuple[str, ...], error: type[RequestRejected]
) -> None:
    with pytest.raises(error):
        refuse_if_impossible(task, model_id="m", capabilities=capabilities, api=OPENAI)


def test_an_image_goes_to_a_model_that_reads_images_and_is_not_changed() -> None:
    task = chat(messages=IMAGE)
    refuse_if_impossible(task, model_id="m", capabilities=("text", "vision"), api=OPENAI)
    assert body(task)["messages"] == list(IMAGE)


def test_a_value_that_json_cannot_hold_is_refused_and_not_shown_in_a_log() -> None:
    with pytest.raises(InvalidRequest) as caught:
        call_of(chat(messages=({"role": "user", "content": object()},)), model="m", api=OPENAI)
    assert "JSON" in caught.value.log_message


def test_a_new_message_behind_one_of_the_assistant_is_refused_where_the_server_always_goes_on() -> None:
    messages = (*MESSAGES, {"role": "assistant", "content": "He"})
    chat = Chat(model_id="m", messages=messages, continue_final_message=False)
    with pytest.raises(InvalidRequest) as caught:
        call_of(chat, model="m", api=LLAMA_SERVER)
    assert caught.value.param == "continue_final_message"
    call_of(replace(chat, messages=MESSAGES), model="m", api=LLAMA_SERVER)
    call_of(replace(chat, continue_final_message=None), model="m", api=LLAMA_SERVER)
