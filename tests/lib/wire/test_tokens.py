"""The tokens of texts and the texts of tokens, in the words of llama.cpp's server and of vLLM."""

import json
from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import (
    Chat,
    Detokenize,
    Detokenized,
    Finished,
    FinishReason,
    Principal,
    Tokenize,
    Tokenized,
    Usage,
)
from neuron_lib.wire.token_requests import TokensRequest
from neuron_lib.wire.tokens import decode_apply_template, decode_detokenize, decode_tokenize

JSON = {"content-type": "application/json"}
MESSAGES = [{"role": "user", "content": "hi"}]
ME = Principal("account", "key")
DECODERS = {"/tokenize": decode_tokenize, "/detokenize": decode_detokenize, "/apply-template": decode_apply_template}


def decode(path: str, **body: Any) -> TokensRequest:
    return DECODERS[path](json.dumps(body).encode(), headers=JSON, principal=ME)


def answer(request: TokensRequest, event: Tokenized | Detokenized) -> Any:
    collector = request.collector(unique="1", created=7)
    collector.add(event)
    collector.add(Finished(reasons=(FinishReason.STOP,), usage=Usage(prompt_tokens=2, completion_tokens=0)))
    return json.loads(collector.body())


@pytest.mark.parametrize(
    ("body", "task"),
    [
        ({"content": "hi"}, Tokenize(model_id="", prompt="hi", add_special=False)),
        ({"content": ""}, Tokenize(model_id="", prompt="", add_special=False)),
        ({"content": "hi", "add_special": True}, Tokenize(model_id="", prompt="hi")),
        (
            {"content": "hi", "model": "o/a", "parse_special": False},
            Tokenize(model_id="o/a", prompt="hi", add_special=False, parse_special=False),
        ),
        (
            {"content": "hi", "with_pieces": True},
            Tokenize(model_id="", prompt="hi", add_special=False, wants_pieces=True),
        ),
        ({"model": "o/a", "prompt": "hi"}, Tokenize(model_id="o/a", prompt="hi")),
        ({"model": "o/a", "prompt": ""}, Tokenize(model_id="o/a", prompt="")),
        ({"prompt": "hi", "add_special_tokens": False}, Tokenize(model_id="", prompt="hi", add_special=False)),
        ({"prompt": "hi", "return_token_strs": True}, Tokenize(model_id="", prompt="hi", wants_pieces=True)),
        ({"prompt": "hi", "content": None, "messages": None}, Tokenize(model_id="", prompt="hi")),
    ],
)
def test_a_text_is_read_as_either_server_says(body: dict[str, Any], task: Tokenize) -> None:
    told = decode("/tokenize", **body).task
    assert isinstance(told, Tokenize)
    assert told.principal == ME
    assert (told.prompt, told.model_id) == (task.prompt, task.model_id)
    assert (told.add_special, told.parse_special) == (task.add_special, task.parse_special)
    assert (told.wants_pieces, told.wants_text) == (task.wants_pieces, task.wants_text)


@pytest.mark.parametrize("path", ["/tokenize", "/apply-template"])
def test_a_chat_is_read_as_for_a_chat_completion(path: str) -> None:
    more = {"tools": [], "add_generation_prompt": False, "chat_template_kwargs": {"x": 1}, "add_special_tokens": False}
    task = decode(path, model="o/a", messages=MESSAGES, **more).task
    assert isinstance(task, Tokenize)
    assert (task.model_id, task.wants_text) == ("o/a", path == "/apply-template")
    assert isinstance(task.prompt, Chat)
    assert task.prompt.messages == MESSAGES
    assert task.prompt.template_kwargs == {"enable_thinking": False, "add_generation_prompt": False, "x": 1}


@pytest.mark.parametrize("path", ["/tokenize", "/apply-template"])
def test_a_chat_may_leave_the_model_out(path: str) -> None:
    assert decode(path, messages=MESSAGES).task.model_id == ""


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"content": None}, "prompt"),
        ("/tokenize", {"content": "a", "prompt": "b"}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "messages"),
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/tokenize", {"prompt": "a", "add_special": True, "add_special_tokens": False}, "add_special_tokens"),
        ("/tokenize", {"model": "o/a", "messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"model": "o/a", "messages": MESSAGES, "add_special": True}, "add_special"),
        ("/tokenize", {"model": "o/a", "messages": []}, "messages"),
        ("/tokenize", {"model": 1, "prompt": "a"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, 2**31]}, "tokens[1]"),
        ("/apply-template", {"model": "o/a"}, "messages"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(path, **body)
    assert caught.value.param == param


def test_tokens_are_told_in_the_words_of_both_servers() -> None:
    told = answer(decode("/tokenize", prompt="hi"), Tokenized(tokens=(5, 6), context=64))
    assert told == {"tokens": [5, 6], "count": 2, "max_model_len": 64}
    assert answer(decode("/tokenize", content=""), Tokenized(tokens=())) == {"tokens": [], "count": 0}


def test_a_piece_that_is_no_text_is_told_as_bytes_by_the_one_and_as_text_by_the_other() -> None:
    event = Tokenized(tokens=(5, 6), pieces=(b"h", b"\xc3"))
    pieces = answer(decode("/tokenize", content="x", with_pieces=True), event)
    assert pieces["tokens"] == [{"id": 5, "piece": "h"}, {"id": 6, "piece": [0xC3]}]
    strings = answer(decode("/tokenize", prompt="x", return_token_strs=True), event)
    assert (strings["tokens"], strings["token_strs"]) == ([5, 6], ["h", "\ufffd"])


def test_the_text_of_tokens_has_both_names() -> None:
    request = decode("/detokenize", model="o/a", tokens=[1, 2])
    assert request.task == Detokenize(model_id="o/a", tokens=(1, 2), principal=ME)
    assert answer(request, Detokenized("hé\u2028")) == {"content": "hé\u2028", "prompt": "hé\u2028"}
    assert decode("/detokenize", tokens=[]).task == Detokenize(model_id="", tokens=(), principal=ME)


def test_a_template_s_prompt_is_the_text_that_was_read() -> None:
    request = decode("/apply-template", model="o/a", messages=MESSAGES)
    assert answer(request, Tokenized(tokens=(1,), text="<s>hi")) == {"prompt": "<s>hi"}


def test_an_answer_that_has_not_come_has_no_body_and_no_stream() -> None:
    request = decode("/tokenize", prompt="hi")
    assert not request.stream
    with pytest.raises(ValueError, match="no answer yet"):
        request.collector(unique="1", created=7).body()
    with pytest.raises(ValueError, match="not streamed"):
        request.encoder(unique="1", created=7)
