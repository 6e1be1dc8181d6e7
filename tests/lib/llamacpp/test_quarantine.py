from typing import Any

import msgspec
import pytest
from neuron_lib.llamacpp.suspects import Suspects, fingerprint

from neuron_lib.types import ChatRequest, Grammar, Principal, SamplingParams, UnreadArray, UnreadObject

POISON = ChatRequest(model_id="o/a", messages=({"role": "user", "content": "poison"},))


def like_poison(**changes: Any) -> ChatRequest:
    return msgspec.structs.replace(POISON, **changes)


def suspects_after(*deaths: tuple[str, float]) -> Suspects:
    suspects = Suspects(window_s=600)
    for reason, time_s in deaths:
        suspects.accuse(fingerprint(POISON), reason, now_s=time_s)
    return suspects


def test_one_death_makes_nobody_suspect_and_two_do() -> None:
    assert suspects_after(("SIGSEGV", 0)).verdict(POISON, now_s=1) is None
    assert suspects_after(("SIGSEGV", 0), ("SIGABRT", 5)).verdict(POISON, now_s=6) == ("SIGSEGV", "SIGABRT")


def test_a_death_is_forgotten_after_the_window() -> None:
    suspects = suspects_after(("first", 0), ("second", 300))
    assert suspects.verdict(POISON, now_s=599) == ("first", "second")
    assert suspects.verdict(POISON, now_s=600) is None
    suspects.accuse(fingerprint(POISON), "third", now_s=601)
    assert suspects.verdict(POISON, now_s=602) == ("second", "third")


@pytest.mark.parametrize(
    "changes",
    [{"whole": True}, {"principal": Principal("a", "k")}, {"include_thinking": True}, {"model_id": "same:o/a"}],
)
def test_who_asks_and_how_the_reply_is_given_out_makes_no_other_request_of_it(changes: dict[str, Any]) -> None:
    assert suspects_after(("x", 0), ("x", 1)).verdict(like_poison(**changes), now_s=2) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ({"role": "user", "content": "ping"},)},
        {"tools": ({"type": "function"},)},
        {"template_kwargs": {"x": 1}},
        {"sampling": SamplingParams(top_k=1)},
        {"stop": ("x",)},
        {"choices": 2},
        {"max_tokens": 1},
        {"grammar": Grammar("regex", "x")},
    ],
)
def test_whatever_the_engine_is_told_makes_another_request_of_it(changes: dict[str, Any]) -> None:
    assert suspects_after(("x", 0), ("x", 1)).verdict(like_poison(**changes), now_s=2) is None


@pytest.mark.parametrize(
    "content", ["\ud800", 1 << 70, int("9" * 4000) ** 2, {1j: 2}], ids=["half", "big", "huge", "odd"]
)
def test_what_no_frame_can_hold_has_no_fingerprint_and_is_never_suspect(content: Any) -> None:
    request = like_poison(messages=({"role": "user", "content": content},))
    assert fingerprint(request) is None
    suspects = suspects_after(("x", 0), ("x", 1))
    for now_s in (2, 3):
        suspects.accuse(fingerprint(request), "x", now_s=now_s)
    assert suspects.verdict(request, now_s=4) is None


def test_the_same_json_again_is_the_same_request() -> None:
    def request(text: bytes) -> ChatRequest:
        return like_poison(messages=UnreadArray(text), template_kwargs=UnreadObject(b"{}"))

    assert fingerprint(request(b'[{"role":"user"}]')) == fingerprint(request(b'[{"role":"user"}]')) is not None
    assert fingerprint(request(b'[{"role":"user"}]')) != fingerprint(request(b'[{"role":"tool"}]'))


def test_whoever_was_accused_longest_ago_is_forgotten_when_there_are_too_many() -> None:
    suspects, other = suspects_after(("x", 0)), like_poison(max_tokens=0)
    for _ in range(2):
        suspects.accuse(fingerprint(other), "x", now_s=1)
    suspects.accuse(fingerprint(POISON), "x", now_s=2)
    for number in range(1, suspects.most - 1):
        suspects.accuse(fingerprint(like_poison(max_tokens=number)), "x", now_s=3)
    assert suspects.verdict(other, now_s=4) is not None
    suspects.accuse(fingerprint(like_poison(max_tokens=suspects.most)), "x", now_s=3)
    assert suspects.verdict(other, now_s=4) is None
    assert suspects.verdict(POISON, now_s=4) is not None
