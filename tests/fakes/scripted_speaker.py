"""A speaker that says what a test wants, and what it was asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from neuron_service.cli.talk.pieces import Ended, Order, Piece, Said

__all__ = ("ENDED", "ScriptedSpeaker")

ENDED = Ended(reason="stop", prompt_tokens=10, completion_tokens=5, cached_tokens=4, prefill_ms=100, decode_ms=200)


class ScriptedSpeaker:
    """Answers with the next script. A text is a piece of the answer; an exception is raised in its place.

    A script without an `Ended` ends with `ENDED`.
    """

    def __init__(self, *scripts: Sequence[Piece | str | BaseException]) -> None:
        self._scripts = list(scripts)
        self.model_id = "acme/model"
        self.place = "in this test"
        self.orders: list[Order] = []
        self.running = 0

    @contextmanager
    def answer(self, order: Order) -> Iterator[Iterator[Piece]]:
        self.orders.append(order)
        self.running += 1
        try:
            yield self._pieces(self._scripts.pop(0))
        finally:
            self.running -= 1

    def _pieces(self, script: Sequence[Piece | str | BaseException]) -> Iterator[Piece]:
        for each in script:
            if isinstance(each, BaseException):
                raise each
            yield Said(each) if isinstance(each, str) else each
        if not script or not isinstance(script[-1], Ended):
            yield ENDED
