"""Prompts between preparing and starting: kept for their start, forgotten when nobody wants them any more."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from neuron_lib.engine.__main__ import Engine
from neuron_lib.engine.prepare import PreparedPrompt
from neuron_lib.engine.protocol import Cancelled, Prepared, report_decoder

CONSTRAINED = PreparedPrompt("hello", [1, 2], constraint=object())  # type: ignore[arg-type]  # never looked at here


@pytest.fixture
def ends() -> Iterator[tuple[Engine, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield Engine(ours), theirs


def told(end: socket.socket) -> list[Any]:
    try:
        return list(report_decoder().feed(end.recv(1 << 16)))
    except BlockingIOError:
        return []


def test_a_prompt_whose_grammar_is_compiled_is_offered_and_kept(ends: tuple[Engine, socket.socket]) -> None:
    engine, end = ends
    engine._compiling.add(7)
    engine._offer(7, CONSTRAINED)
    assert told(end) == [Prepared(request=7, prompt_tokens=2, prompt_end="hello")]
    assert engine._prompts == {7: CONSTRAINED}
    assert engine._compiling == set()


def test_a_request_cancelled_while_its_grammar_is_compiled_leaves_nothing_and_that_is_said_when_it_is_compiled(
    ends: tuple[Engine, socket.socket],
) -> None:
    engine, end = ends
    engine._compiling.add(7)
    engine._cancel(7)
    assert told(end) == []
    engine._offer(7, CONSTRAINED)
    assert told(end) == [Cancelled(7)]
    assert engine._prompts == {}


def test_a_request_cancelled_before_its_start_leaves_nothing(ends: tuple[Engine, socket.socket]) -> None:
    engine, end = ends
    engine._offer(7, PreparedPrompt("hello", [1]))
    engine._cancel(7)
    assert engine._prompts == {}
    assert told(end) == [Prepared(request=7, prompt_tokens=1, prompt_end="hello")]
