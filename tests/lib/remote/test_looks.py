"""What a server's answers say about its models, and when a server counts as lost. Pure."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.remote.listing import Listed, facts_of_neuron, find, has_model, names_of
from neuron_lib.remote.look import Look, see
from neuron_lib.remote.watch import Watch
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.facts import UpstreamFacts


def listing(*entries: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(entries)}).encode()


def found(**fields: Any) -> Listed:
    entry = find(listing({"id": "m", **fields}), "m")
    assert entry is not None
    return entry


@pytest.mark.parametrize(
    ("owner", "api", "max_tokens"),
    [
        ("neuron", "neuron", "max_tokens"),
        ("llamacpp", "llama-server", "max_tokens"),
        ("vllm", "vllm", "max_tokens"),
        ("sglang", "sglang", "max_tokens"),
        ("openai", "openai", "max_completion_tokens"),
        ("system", "openai", "max_completion_tokens"),
        ("me", "other", "max_tokens"),
        (None, "other", "max_tokens"),
        (["neuron"], "other", "max_tokens"),
    ],
)
def test_the_owner_of_a_model_says_which_api_its_server_has(owner: Any, api: str, max_tokens: str) -> None:
    seems = found(owned_by=owner).api
    assert (seems.name, seems.max_tokens) == (api, max_tokens)


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"meta": {"n_ctx": 512}}, 512),
        ({}, None),
        ({"max_model_len": None, "meta": None}, None),
        ({"max_model_len": "4096", "meta": 3}, None),
        ({"max_model_len": True}, None),
        ({"max_model_len": -1}, None),
        ({"max_model_len": 10**15}, None),
        ({"max_model_len": 1e300}, None),
    ],
)
def test_the_context_is_believed_if_it_can_be_one(fields: dict[str, Any], context: int | None) -> None:
    assert found(**fields).context == context


def test_a_list_without_an_object_around_it_is_a_list_too() -> None:
    assert has_model(b'[{"id":"m"},{"id":"n","object":"model"}]', "n")
    assert not has_model(b'[{"id":"m"}]', "M")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[1]",
        b'{"data":{}}',
        b'{"data":[{"id":7}]}',
        b"[" * 100_000,
        b'{"data":' * 50_000,
        b"\xff",
    ],
)
def test_what_is_no_list_of_models_is_an_error_and_nothing_else(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        find(body, "m")
    assert not has_model(body, "m")
    assert facts_of_neuron(body, "m", UpstreamFacts()) == UpstreamFacts()
    assert see(200, body, "m").look is Look.UNWELL


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_crash(body: bytes) -> None:
    has_model(body, "m")
    facts_of_neuron(body, "m", UpstreamFacts())


def test_the_names_of_a_list_are_cut() -> None:
    many = names_of(listing(*({"id": f"{number}" + "x" * 5000} for number in range(1000))))
    assert many.endswith("and 992 more")
    assert len(many) < 3000
    assert names_of(listing()) == "none"


def test_a_neuron_says_what_its_model_can_do() -> None:
    model = {
        "id": "m",
        "capabilities": ["text", "embeddings"],
        "limit": {"context": 4096, "output": 1024, "input": 3072},
        "tool_call": True,
        "tool_format": "hermes",
        "reasoning": True,
        "and": "more",
    }
    facts = facts_of_neuron(json.dumps([{"id": "other"}, model]).encode(), "m", UpstreamFacts())
    assert facts.capabilities == ("text", "embeddings")
    assert facts.limit == ModelLimit(context=4096, output=1024, input=3072)
    assert (facts.tool_call, facts.tool_format, facts.reasoning) == (True, "hermes", True)


@pytest.mark.parametrize(
    "limit", [{"context": -1, "output": 1}, {"context": 9, "output": 0}, {"context": 1 << 60, "output": 1}]
)
def test_a_limit_that_cannot_be_one_is_not_believed(limit: dict[str, int]) -> None:
    known = UpstreamFacts(limit=ModelLimit(context=7, output=7))
    assert facts_of_neuron(json.dumps([{"id": "m", "limit": limit}]).encode(), "m", known).limit == known.limit


def test_words_of_a_strange_neuron_are_cut() -> None:
    strange = {"id": "m", "capabilities": ["te\nxt" * 1000] * 1000, "tool_format": "\x1b[31m" * 100}
    facts = facts_of_neuron(json.dumps([strange]).encode(), "m", UpstreamFacts())
    assert len(facts.capabilities) == 16
    assert all(each.isprintable() and len(each) <= 64 for each in (*facts.capabilities, facts.tool_format or ""))


def test_a_model_that_was_loaded_again_has_another_time_or_another_context() -> None:
    first = found(created=1, max_model_len=512)
    assert not found(created=1, max_model_len=512).is_other_load(first)
    assert found(created=2, max_model_len=512).is_other_load(first)
    assert found(created=1, max_model_len=1024).is_other_load(first)
    assert found(created=2).is_other_load(first), "it is not resident any more"
    assert not found(created=3).is_other_load(found(created=2)), "a time that only says when it was asked"


# ------------------------------------------------------------------------------------------------------- one look


@pytest.mark.parametrize(
    ("status", "body", "look"),
    [
        (200, listing({"id": "m"}), Look.GOOD),
        (200, listing({"id": "n"}), Look.REFUSES),
        (401, b"", Look.REFUSES),
        (403, b"", Look.REFUSES),
        (404, b"", Look.REFUSES),
        (429, b"", Look.GOOD),
        (301, b"", Look.UNWELL),
        (500, b"", Look.UNWELL),
        (503, b"", Look.UNWELL),
    ],
)
def test_what_an_answer_shows(status: int, body: bytes, look: Look) -> None:
    seen = see(status, body, "m")
    assert seen.look is look
    assert bool(seen.reason) is (look is not Look.GOOD)


# ------------------------------------------------------------------------------------------------- when it is lost


@pytest.mark.parametrize("gone", [Look.AWAY, Look.REFUSES])
def test_a_server_that_is_away_or_refuses_is_lost_at_the_second_look(gone: Look) -> None:
    watch = Watch(limit_s=30.0, last_good_s=0.0)
    assert not watch.take(gone, now_s=1.0)
    assert watch.is_in_doubt
    assert watch.take(gone, now_s=1.5)


def test_one_good_look_between_two_bad_ones_is_enough() -> None:
    watch = Watch(limit_s=30.0, last_good_s=0.0)
    for now_s in range(0, 100, 2):
        assert not watch.take(Look.AWAY, now_s=now_s)
        assert not watch.take(Look.GOOD, now_s=now_s + 1)
        assert not watch.is_in_doubt


def test_a_server_that_is_unwell_is_lost_when_its_time_is_over() -> None:
    watch = Watch(limit_s=30.0, last_good_s=0.0)
    assert not watch.take(Look.UNWELL, now_s=10.0)
    assert not watch.is_in_doubt
    assert not watch.take(Look.AWAY, now_s=20.0)
    assert not watch.take(Look.UNWELL, now_s=29.0)
    assert watch.take(Look.UNWELL, now_s=30.0)


@pytest.mark.parametrize("look", list(Look))
def test_a_server_that_still_writes_replies_is_not_lost(look: Look) -> None:
    watch = Watch(limit_s=30.0, last_good_s=0.0)
    for now_s in range(0, 100, 10):
        assert not watch.take(look, now_s=now_s, is_heard=True)


@pytest.mark.parametrize("gone", [Look.AWAY, Look.REFUSES])
def test_a_server_that_refuses_new_requests_is_lost_soon_after_its_last_reply(gone: Look) -> None:
    watch = Watch(limit_s=30.0, last_good_s=0.0)
    assert not watch.take(gone, now_s=10.0, is_heard=True)
    assert watch.is_in_doubt
    assert watch.take(gone, now_s=10.5)
