from typing import Any

import msgspec
import pytest

from neuron_lib.supervision.death import Death
from neuron_lib.supervision.quarantine import Quarantine, fingerprint
from neuron_lib.types import (
    ChatRequest,
    Complete,
    Detokenize,
    Embed,
    Grammar,
    Principal,
    SamplingParams,
    Task,
    Tokenize,
    UnreadArray,
    UnreadObject,
)

POISON = ChatRequest(model_id="o/a", messages=({"role": "user", "content": "poison"},))


def like_poison(**changes: Any) -> ChatRequest:
    return msgspec.structs.replace(POISON, **changes)


def quarantine_after(*deaths: tuple[str, float]) -> Quarantine:
    """One that has heard of these deaths of the poison alone."""
    quarantine = Quarantine(window_s=600)
    for reason, time_s in deaths:
        die_of(POISON, reason, quarantine=quarantine, now_s=time_s)
    return quarantine


def die_of(task: Task, reason: str, *, quarantine: Quarantine, now_s: float) -> None:
    """An engine works on the task alone and dies."""
    quarantine.enter(7, task)
    quarantine.take_in(Death(reason, frozenset({7})), now_s=now_s)
    quarantine.leave(7, may_be_at_work=False)


def test_one_death_makes_nobody_suspect_and_two_do() -> None:
    assert quarantine_after(("SIGSEGV", 0)).verdict(POISON, now_s=1) is None
    assert quarantine_after(("SIGSEGV", 0), ("SIGABRT", 5)).verdict(POISON, now_s=6) == ("SIGSEGV", "SIGABRT")


def test_a_death_is_forgotten_after_the_window() -> None:
    quarantine = quarantine_after(("first", 0), ("second", 300))
    assert quarantine.verdict(POISON, now_s=599) == ("first", "second")
    assert quarantine.verdict(POISON, now_s=600) is None
    die_of(POISON, "third", quarantine=quarantine, now_s=601)
    assert quarantine.verdict(POISON, now_s=602) == ("second", "third")


@pytest.mark.parametrize(
    "changes",
    [{"whole": True}, {"principal": Principal("a", "k")}, {"include_thinking": True}, {"model_id": "same:o/a"}],
)
def test_who_asks_and_how_the_reply_is_given_out_makes_no_other_request_of_it(changes: dict[str, Any]) -> None:
    assert quarantine_after(("x", 0), ("x", 1)).verdict(like_poison(**changes), now_s=2) is not None


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
    assert quarantine_after(("x", 0), ("x", 1)).verdict(like_poison(**changes), now_s=2) is None


@pytest.mark.parametrize(
    "content", ["\ud800", 1 << 70, int("9" * 4000) ** 2, {1j: 2}], ids=["half", "big", "huge", "odd"]
)
def test_what_no_frame_can_hold_has_no_fingerprint_and_is_never_suspect(content: Any) -> None:
    request = like_poison(messages=({"role": "user", "content": content},))
    assert fingerprint(request) is None
    quarantine = quarantine_after(("x", 0), ("x", 1))
    for now_s in (2, 3):
        die_of(request, "x", quarantine=quarantine, now_s=now_s)
    assert quarantine.verdict(request, now_s=4) is None


def test_the_same_json_again_is_the_same_request() -> None:
    def request(text: bytes) -> ChatRequest:
        return like_poison(messages=UnreadArray(text), template_kwargs=UnreadObject(b"{}"))

    assert fingerprint(request(b'[{"role":"user"}]')) == fingerprint(request(b'[{"role":"user"}]')) is not None
    assert fingerprint(request(b'[{"role":"user"}]')) != fingerprint(request(b'[{"role":"tool"}]'))


def test_whoever_was_accused_longest_ago_is_forgotten_when_there_are_too_many() -> None:
    quarantine, other = quarantine_after(("x", 0)), like_poison(max_tokens=0)
    for _ in range(2):
        die_of(other, "x", quarantine=quarantine, now_s=1)
    die_of(POISON, "x", quarantine=quarantine, now_s=2)
    for number in range(1, quarantine.most - 1):
        die_of(like_poison(max_tokens=number), "x", quarantine=quarantine, now_s=3)
    assert quarantine.verdict(other, now_s=4) is not None
    die_of(like_poison(max_tokens=quarantine.most), "x", quarantine=quarantine, now_s=3)
    assert quarantine.verdict(other, now_s=4) is None
    assert quarantine.verdict(POISON, now_s=4) is not None


def test_of_several_requests_that_an_engine_worked_on_none_is_remembered() -> None:
    quarantine = Quarantine()
    quarantine.enter(1, POISON)
    quarantine.enter(2, like_poison(max_tokens=1))
    for _ in range(2):
        quarantine.take_in(Death("SIGSEGV", frozenset({1, 2})), now_s=0)
    assert quarantine.verdict(POISON, now_s=1) is None


def test_a_death_with_nothing_to_do_accuses_nobody() -> None:
    quarantine = Quarantine()
    quarantine.enter(1, POISON)
    for _ in range(2):
        quarantine.take_in(Death("SIGSEGV", frozenset()), now_s=0)
    assert quarantine.verdict(POISON, now_s=1) is None


@pytest.mark.parametrize("may_be_at_work", [True, False])
def test_a_request_whose_client_has_left_is_remembered_if_the_engine_may_be_working_on_it(
    may_be_at_work: bool,  # noqa: FBT001 - a parameter
) -> None:
    quarantine = Quarantine()
    for number in (1, 2):
        quarantine.enter(number, POISON)
        quarantine.leave(number, may_be_at_work=may_be_at_work)
        quarantine.take_in(Death("SIGSEGV", frozenset({number})), now_s=0)
    assert (quarantine.verdict(POISON, now_s=1) is not None) is may_be_at_work


def test_who_left_is_forgotten_with_the_engine_and_when_there_are_too_many() -> None:
    quarantine = Quarantine()
    for number in range(2000):
        quarantine.enter(number, like_poison(max_tokens=number))
        quarantine.leave(number, may_be_at_work=True)
    assert len(quarantine._left) == 1024
    quarantine.take_in(Death("SIGSEGV", frozenset()), now_s=0)
    assert (len(quarantine._open), len(quarantine._left)) == (0, 0)


def test_tasks_of_different_kinds_are_never_the_same() -> None:
    tasks: list[Task] = [POISON, Complete(model_id="o/a", prompt="poison"), Embed(model_id="o/a", inputs=("poison",))]
    tasks += [Tokenize(model_id="o/a", prompt=POISON), Detokenize(model_id="o/a", tokens=(1,))]
    assert len({fingerprint(task) for task in tasks}) == 5


def test_the_tokens_of_a_chat_are_the_same_task_whoever_asks() -> None:
    asked = [like_poison(), like_poison(principal=Principal("a", "k"), whole=True)]
    assert len({fingerprint(Tokenize(model_id="o/a", prompt=chat)) for chat in asked}) == 1
