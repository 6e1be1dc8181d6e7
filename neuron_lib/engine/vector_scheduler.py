"""Decides of which texts the next step makes vectors. Has no clock, no task and no pointer; `loop` acts on its plans.

A text is computed whole in one step, and nothing of it is kept. So all that lives from step to step is who waits. As
many requests run at once as there are seats, and their texts take turns: a step computes the next text of each request,
then one more of each, and so on, as long as they fit the batch. Who had a turn goes to the end. So a request with one
text is answered soon, also beside requests with thousands.
"""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from neuron_lib.engine.line import Line, Request
from neuron_lib.engine.protocol import SequenceEvent
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Outcome, SequenceChunk, StepPlan, StepResult

__all__ = ("VectorScheduler",)


@dataclass(slots=True)
class _Running:
    """A request that has begun: its texts without a vector, and the seconds of the steps in which it had a turn."""

    request: Request
    left: deque[Sequence]
    spent_s: float = 0.0


class VectorScheduler:
    """The requests of one context for vectors. Lives as long as the context.

    `seats` requests run at once. A step has at most `texts` texts, and `n_batch` tokens of all of them together.
    """

    def __init__(self, *, seats: int, texts: int, n_batch: int) -> None:
        self.n_batch: Final = n_batch
        self._seats: Final = seats
        self._most_texts: Final = texts
        self._text_limit = texts  # smaller for a while after libllama found no cells for a batch
        self._line: Final = Line()
        self._running: dict[int, _Running] = {}  # by the number of the request, in the order of their turns

    def __repr__(self) -> str:
        return f"<VectorScheduler {len(self._line)} waiting, {len(self._running)} running>"

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody, neither waiting nor begun."""
        return not (self._running or len(self._line))

    @property
    def in_flight(self) -> int:
        """Texts without a vector, those of waiting requests included."""
        running = sum(len(each.left) for each in self._running.values())
        return sum(len(request.sequences) for request in self._line) + running

    @property
    def prefill_tok_s(self) -> float:
        """Not measured: texts are read whole, and the longest one takes a moment."""
        return 0.0

    def cells_in_use(self) -> tuple[int, int]:
        """None: nothing of a text is kept."""
        return 0, 0

    def submit(self, request: Request) -> None:
        """Let a request wait in the line. Raises ValueError for one that can never run."""
        for sequence in request.sequences:
            if not 0 < len(sequence.prompt) <= self.n_batch:
                raise ValueError(f"a text of {len(sequence.prompt)} tokens does not fit a batch of {self.n_batch}")
        self._line.enter(request)

    def cancel(self, number: int) -> None:
        """Drop a request wherever it is. An unknown number is ignored, because a cancel may cross the end."""
        self._line.leave(number)
        self._running.pop(number, None)

    def plan(self, now_s: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute. `now_s` is the time by the engine's clock."""
        began = self._begin_requests(now_s)
        chunks = [
            SequenceChunk(sequence=text, seq_id=seq_id, tokens=text.prompt, position=0, wants_logits=False)
            for seq_id, text in enumerate(self._next_texts())
        ]
        return StepPlan(edits=(), chunks=tuple(chunks), began=tuple(began)) if chunks else None

    def _begin_requests(self, now_s: float) -> list[Request]:
        began: list[Request] = []
        while (request := self._next_request()) is not None:
            self._line.begin(request)
            self._running[request.number] = _Running(request, deque(request.sequences))
            for sequence in request.sequences:
                sequence.queue_s = now_s - request.arrived_s
            began.append(request)
        return began

    def _next_request(self) -> Request | None:
        """Who begins next, if anybody may. A batch has one adapter."""
        running = [each.request for each in self._running.values()]
        free_seats = self._seats - len(running)
        if not free_seats or not len(self._line):
            return None
        request = self._line.next(Counter(request.caller for request in running), free_seats=free_seats)
        if request is None or any(other.class_.adapter != request.class_.adapter for other in running):
            return None
        return request

    def _next_texts(self) -> list[Sequence]:
        """The texts of the next step. A request whose next text does not fit any more is left out."""
        texts: list[Sequence] = []
        room = self.n_batch
        takers = [iter(each.left) for each in self._running.values()]
        while takers:
            for taker in takers.copy():
                text = next(taker, None)
                if text is None or len(text.prompt) > room:
                    takers.remove(taker)
                    continue
                texts.append(text)
                room -= len(text.prompt)
                if len(texts) == self._text_limit:
                    return texts
        return texts

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Take in what a plan brought. Returns one event for each text that has ended."""
        texts = [chunk.sequence for chunk in plan.chunks]
        numbers = dict.fromkeys(text.request for text in texts)
        for number in numbers:
            self._running[number].spent_s += result.duration_s
        if result.outcome is Outcome.COMPUTED:
            self._text_limit = min(self._most_texts, 2 * self._text_limit)
            events = [self._end(text, values) for text, values in zip(texts, result.vectors, strict=True)]
            for number in numbers:
                self._end_turn(number)
            return events
        if result.outcome is Outcome.NO_CELLS and len(texts) > 1:
            self._text_limit = len(texts) // 2
            return []
        broken = {text.request: text.broken(result.message) for text in texts}
        for number in broken:
            self.cancel(number)
        return list(broken.values())

    def _end(self, text: Sequence, values: bytes) -> SequenceEvent:
        """A text has its vector. Its request has been computed for so long."""
        running = self._running[text.request]
        running.left.popleft()  # texts are taken in their order
        text.prefill_s = running.spent_s
        return text.vector(values)

    def _end_turn(self, number: int) -> None:
        """The request goes to the end, or has ended."""
        running = self._running.pop(number)
        if running.left:
            self._running[number] = running
