"""Texts that are gone on with, tokens, and facts about one model, with a real model and through the official client."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.system.daemon import MODELS, Daemon, running_daemon, stream_payloads

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE = "test/one"
DEFAULTS = f"""
default_models = [{{ model_id = "{ONE}", harness = "llamacpp" }}]
"""
FRANCE = "The capital of France is"
GREEDY: dict[str, Any] = {"model": ONE, "temperature": 0, "max_tokens": 5}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), DEFAULTS + MODELS) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(daemon: Daemon, path: str, **body: Any) -> dict[str, Any]:
    reply = daemon.client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def texts(completion: openai.types.Completion) -> list[str]:
    return [choice.text for choice in completion.choices]


# --------------------------------------------------------------------------------------------------------- completions


def test_a_text_is_gone_on_with(client: openai.OpenAI) -> None:
    completion = client.completions.create(prompt=FRANCE, **GREEDY)
    (choice,) = completion.choices
    assert choice.text.startswith(" Paris")
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 5)


def test_the_same_prompt_in_each_of_its_shapes_gets_the_same_text(daemon: Daemon, client: openai.OpenAI) -> None:
    other = "Once upon a time"
    ids, other_ids = (post(daemon, "/tokenize", prompt=text, model=ONE)["tokens"] for text in (FRANCE, other))
    alone = [texts(client.completions.create(prompt=text, **GREEDY))[0] for text in (FRANCE, other)]
    assert texts(client.completions.create(prompt=ids, **GREEDY)) == alone[:1]
    assert texts(client.completions.create(prompt=[FRANCE, other], **GREEDY)) == alone
    assert texts(client.completions.create(prompt=[ids, other_ids], **GREEDY)) == alone


def test_more_replies_than_there_are_seats_take_turns_and_come_in_order(client: openai.OpenAI) -> None:
    prompts = [f"{FRANCE} number {number}," for number in range(5)]
    completion = client.completions.create(prompt=prompts, n=2, **GREEDY)
    assert [choice.index for choice in completion.choices] == list(range(10))
    assert texts(completion)[::2] == texts(completion)[1::2]  # greedy choices of one prompt are the same
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 5 * 9
    assert completion.usage.completion_tokens in range(10, 51, 2)  # a reply may end before its limit of 5


def test_a_stream_has_the_text_of_the_whole_reply(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt=[FRANCE, "Once"], echo=True, **GREEDY)
    streamed = ["", ""]
    with client.completions.create(prompt=[FRANCE, "Once"], echo=True, stream=True, **GREEDY) as stream:
        for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts(whole)
    assert streamed[0].startswith(f"{FRANCE} Paris")


def test_an_echo_of_tokens_is_their_text(daemon: Daemon, client: openai.OpenAI) -> None:
    ids = post(daemon, "/tokenize", prompt="Ça va 🦊?", model=ONE)["tokens"]
    assert texts(client.completions.create(prompt=ids, echo=True, **GREEDY))[0].startswith("Ça va 🦊?")


def test_each_token_is_in_the_text_where_its_offset_says(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(prompt=FRANCE, logprobs=3, **GREEDY).choices
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert told.top_logprobs is not None
    assert told.token_logprobs is not None
    assert "".join(told.tokens) == choice.text
    for token, offset, logprob, top in zip(
        told.tokens, told.text_offset, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert choice.text[offset : offset + len(token)] == token
        assert top is not None
        assert logprob == top[token]
        assert len(top) in {3, 4}  # the penalties may choose a token that is not among the likeliest


def test_a_reply_ends_at_a_stop_and_takes_a_choice_if_it_must(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(prompt=FRANCE, stop=[" Paris"], **GREEDY).choices
    assert (choice.text, choice.finish_reason) == ("", "stop")
    words = {"guided_choice": [" Rome", " Berlin"]}
    bound = client.completions.create(prompt=[FRANCE, "Go to"], extra_body=words, **GREEDY)
    assert {(choice.text, choice.finish_reason) for choice in bound.choices} <= {(" Rome", "stop"), (" Berlin", "stop")}


def test_llama_cpp_s_own_completion_has_the_same_text(daemon: Daemon, client: openai.OpenAI) -> None:
    body = {"prompt": FRANCE, "n_predict": 5, "temperature": 0}
    told = post(daemon, "/completion", **body)
    assert told["content"] == texts(client.completions.create(prompt=FRANCE, **GREEDY))[0]
    assert (told["stop"], told["stop_type"], told["tokens_predicted"]) == (True, "limit", 5)
    with daemon.client.stream("POST", "/completion", json=body | {"stream": True}) as answer:
        pieces = list(stream_payloads(answer.iter_lines()))
    assert "".join(piece["content"] for piece in pieces) == told["content"]
    assert [piece["stop"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert post(daemon, "/completion", **body, stop=["Paris"])["stopping_word"] == "Paris"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"suffix": " is the capital."}, "suffix"),  # this vocabulary has no tokens to fill in the middle
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[1], [999_999]]}, "prompt[1]"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"model": ONE, "logit_bias": {"999999": 1}}, "logit_bias.999999"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_its_name(
    client: openai.OpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**({"prompt": FRANCE} | GREEDY | more))
    assert caught.value.param == param


def test_a_prompt_beyond_the_context_is_refused_as_in_a_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(prompt=["fits", "a " * 2000], **GREEDY)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt[1]")


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("text", ["Hello world", "", " two  spaces\n\n\ttab", "Ça va? 🦊 née", "<|im_start|>user\nhi"])
def test_tokens_spell_the_text_that_they_were_read_from(daemon: Daemon, text: str) -> None:
    told = post(daemon, "/tokenize", content=text, with_pieces=True)
    pieces = [
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"])
        for piece in told["tokens"]
    ]
    assert b"".join(pieces).decode() == text
    ids = [piece["id"] for piece in told["tokens"]]
    assert post(daemon, "/tokenize", model=ONE, prompt=text, add_special_tokens=False)["tokens"] == ids
    assert post(daemon, "/detokenize", tokens=ids) == {"content": text, "prompt": text}
    assert (told["count"], told["max_model_len"]) == (len(ids), 1024)


def test_a_special_token_is_text_if_it_is_asked_for_as_text(daemon: Daemon) -> None:
    special = post(daemon, "/tokenize", content="<|im_start|>")
    text = post(daemon, "/tokenize", content="<|im_start|>", parse_special=False)
    assert (special["count"], text["count"] > 1) == (1, True)
    assert post(daemon, "/detokenize", tokens=text["tokens"])["content"] == "<|im_start|>"


def test_the_tokens_of_a_chat_are_those_that_its_reply_is_billed_for(daemon: Daemon, client: openai.OpenAI) -> None:
    chat: dict[str, Any] = {"model": ONE, "messages": [{"role": "user", "content": "hi"}]}
    prompt = post(daemon, "/apply-template", **chat)["prompt"]
    told = post(daemon, "/tokenize", **chat)
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert post(daemon, "/tokenize", content=prompt)["tokens"] == told["tokens"]
    reply = client.chat.completions.create(**chat, max_tokens=1)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == told["count"]


def test_tokens_that_there_are_not_are_refused(daemon: Daemon) -> None:
    reply = daemon.client.post("/detokenize", json={"tokens": [1, 999_999]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tokens")


# ----------------------------------------------------------------------------------------------------------- one model


def test_the_client_finds_one_model_and_no_other(client: openai.OpenAI) -> None:
    model = client.models.retrieve(ONE)
    assert model == next(iter(client.models.list()))
    assert (model.id, model.object, model.owned_by) == (ONE, "model", "neuron")
    assert model.model_extra is not None
    assert model.model_extra["max_model_len"] == model.model_extra["limit"]["context"] == 1024
    assert model.model_extra["capabilities"] == ["text"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("test/two")


def test_the_client_may_be_given_the_address_of_the_host(daemon: Daemon) -> None:
    with openai.OpenAI(base_url=daemon.url, api_key="none", max_retries=0) as client:
        assert client.models.retrieve(ONE).id == ONE
        assert texts(client.completions.create(prompt=FRANCE, **GREEDY))[0].startswith(" Paris")
        with pytest.raises(openai.NotFoundError):
            client.completions.create(prompt=FRANCE, model="test/two")
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.images.generate(model=ONE, prompt="a fox")
    assert caught.value.code == "wrong_modality"
