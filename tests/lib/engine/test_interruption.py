"""Work of the main thread that is ended when it takes too long. The waits here end with a signal."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from neuron_lib.engine.interruption import GaveWay, within
from neuron_lib.errors import TemplateFailed


@pytest.fixture(autouse=True)
def handler_stays() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def for_ever() -> None:
    while True:
        with suppress(Exception):  # as a template's own handlers
            while True:
                pass


def test_work_that_ends_gives_its_result() -> None:
    assert within(60, lambda: 7) == 7


def test_what_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_work_without_end_is_ended() -> None:
    with pytest.raises(TemplateFailed, match="ran longer"):
        within(0.1, for_ever)


def test_work_gives_way_once_it_is_told_to() -> None:
    asked: list[float] = []

    def gives_way(took_s: float) -> bool:
        asked.append(took_s)
        return len(asked) == 3

    with pytest.raises(GaveWay):
        within(60, for_ever, gives_way=gives_way)
    assert asked == sorted(asked)


def test_work_may_be_done_again_after_it_gave_way() -> None:
    with pytest.raises(GaveWay):
        within(60, for_ever, gives_way=lambda _took_s: True)
    assert within(60, lambda: 7, gives_way=lambda _took_s: True) == 7
