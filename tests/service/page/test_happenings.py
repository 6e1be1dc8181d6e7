"""The last requests and errors, in words."""

from typing import Any

import pytest

from neuron_lib.types import (
    FinishReason,
    HostEvent,
    HostState,
    HostStateEvent,
    ModelEvent,
    ModelPhase,
    RejectionEvent,
    ReplyEvent,
    ReplyOutcome,
    RestartEvent,
)
from neuron_service.page.happenings import Request, requests_of, troubles_of

A = "org/a"
NOW_S = 1000.0


def reply(number: int = 1, **changes: Any) -> ReplyEvent:
    fields: dict[str, Any] = {
        "id": f"e-{number}",
        "at": NOW_S - 12,
        "model_id": A,
        "outcome": ReplyOutcome.FINISHED,
        "finish_reasons": (FinishReason.STOP,),
        "prompt_tokens": 31,
        "completion_tokens": 143,
        "queue_ms": 1,
        "ttft_ms": 210,
        "decode_ms": 3250,
        "total_ms": 3421,
        "request_id": "of-the-client",
    }
    return ReplyEvent(**(fields | changes))


def test_a_request_shows_its_model_its_end_its_tokens_and_its_times() -> None:
    assert requests_of([reply(cached_tokens=16)], now_s=NOW_S) == (
        Request(
            id="e-1",
            when="12 s ago",
            model_id=A,
            end="finished",
            tokens="31 (16 cached) + 143",
            first="0.21 s",
            speed="44/s",
            total="3.42 s",
        ),
    )


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"finish_reasons": (FinishReason.LENGTH,)}, "cut at its limit"),
        ({"finish_reasons": (FinishReason.TOOL_CALLS,)}, "calls a tool"),
        ({"finish_reasons": ()}, "finished"),
        ({"outcome": ReplyOutcome.ABANDONED, "finish_reasons": ()}, "client left"),
        ({"outcome": ReplyOutcome.FAILED, "error": "engine_dead", "finish_reasons": ()}, "failed: engine_dead"),
    ],
)
def test_the_end_of_a_request_is_said_in_words(changes: dict[str, Any], end: str) -> None:
    assert requests_of([reply(**changes)], now_s=NOW_S)[0].end == end


def test_what_was_not_measured_is_left_empty() -> None:
    (request,) = requests_of([reply(ttft_ms=None, decode_ms=0, completion_tokens=0, total_ms=75_400)], now_s=NOW_S)
    assert (request.first, request.speed, request.total) == ("", "", "75 s")


def test_the_newest_requests_are_shown_first_and_old_ones_are_not() -> None:
    shown = requests_of([reply(number) for number in range(100)], now_s=NOW_S)
    assert [request.id for request in shown] == [f"e-{number}" for number in range(99, 87, -1)]


def test_crashes_failed_loads_lost_models_refusals_and_failed_replies_are_errors() -> None:
    at = NOW_S - 200
    stamp: dict[str, Any] = {"at": at, "model_id": A}
    events: list[HostEvent] = [
        HostStateEvent(id="0", at=at, state=HostState.READY),
        ModelEvent(id="1", phase=ModelPhase.SERVING, **stamp),
        ModelEvent(id="2", phase=ModelPhase.RECOVERING, reason="SIGSEGV", **stamp),
        RestartEvent(id="3", restarts=1, death="SIGSEGV", **stamp),
        ModelEvent(id="4", phase=ModelPhase.CLOSING, reason="SIGSEGV three times", **stamp),
        ModelEvent(id="5", phase=ModelPhase.GONE, reason="no such file", code="load_failed", **stamp),
        RejectionEvent(id="6", what="load", code="already_loaded", reason="it is loaded", **stamp),
        reply(7, outcome=ReplyOutcome.FAILED, error="engine_dead"),
        reply(8),
    ]
    assert [(trouble.id, trouble.when, trouble.words) for trouble in troubles_of(events, now_s=NOW_S)] == [
        ("e-7", "12 s ago", "a reply failed: engine_dead"),
        ("6", "3 min ago", "load refused: it is loaded"),
        ("5", "3 min ago", "failed: no such file"),
        ("4", "3 min ago", "given up: SIGSEGV three times"),
        ("3", "3 min ago", "the engine died and was started again: SIGSEGV"),
    ]


def test_nothing_of_a_client_but_numbers_is_shown() -> None:
    assert "of-the-client" not in repr(requests_of([reply()], now_s=NOW_S))
