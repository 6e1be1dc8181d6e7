"""Decides what the next step computes. Holds no clock, no task and no pointer; `loop` acts on its plans.

Every decoding sequence is in every plan. Prefill fills the rest of the batch, oldest request first; while somebody is
decoding, only as much of it as keeps the step near the target time, measured from the steps themselves.
"""

from collections import deque
from typing import Final

from neuron_lib.engine.protocol import Delta, SequenceEvent
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import SlotPool
from neuron_lib.engine.step import SequenceChunk, StepPlan, StepResult
from neuron_lib.metrics import smooth

__all__ = ("Scheduler",)

_SMALLEST_CHUNK: Final = 16
"""Prefill tokens a mixed step always gets, so that a prompt arrives however slow the machine is."""


class Scheduler:
    """The sequences of one context: waiting ones in order of arrival, live ones each in a slot.

    `n_ctx` is the number of cells of one slot; a prompt must fit into them, which the daemon has checked.
    """

    def __init__(self, *, seats: int, n_batch: int, n_ctx: int, target_step_s: float) -> None:
        if seats > n_batch:
            raise ValueError(f"{seats} seats cannot decode in one batch of {n_batch} tokens")
        self.slots = SlotPool(seats)
        self.n_batch = n_batch
        self.n_ctx = n_ctx
        self.target_step_s = target_step_s
        self._waiting: deque[Sequence] = deque()
        self._live: dict[int, Sequence] = {}  # by request number, in order of arrival
        self._decode_step_s: float | None = None
        self._prefill_token_s: float | None = None

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._waiting)} waiting, {len(self._live)} live, {self.slots!r}>"

    @property
    def in_flight(self) -> int:
        """Sequences that are not finished, waiting ones included."""
        return len(self._waiting) + len(self._live)

    def submit(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises ValueError for one that can never run."""
        if not 0 < len(sequence.prompt) <= self.n_ctx:
            raise ValueError(f"a prompt of {len(sequence.prompt)} tokens does not fit {self.n_ctx} cells")
        self._waiting.append(sequence)

    def cancel(self, request: int) -> None:
        """Drop a sequence wherever it is; unknown numbers are ignored, because a cancel may cross a finish."""
        sequence = self._live.get(request)
        if sequence is not None:
            self._retire(sequence)
            return
        for waiting in self._waiting:
            if waiting.request == request:
                self._waiting.remove(waiting)
                return

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute."""
        while self._waiting and self.slots.has_free:
            sequence = self._waiting.popleft()
            sequence.seq_id = self.slots.acquire(sequence.request)
            self._live[sequence.request] = sequence
        if not self._live:
            return None
        decoding = [s for s in self._live.values() if not s.is_prefilling]
        chunks = [self._chunk(sequence, 1) for sequence in decoding]
        budget = self._prefill_budget(len(decoding))
        for sequence in self._live.values():
            if budget <= 0:
                break
            if sequence.is_prefilling:
                chunk = self._chunk(sequence, budget)
                budget -= len(chunk.tokens)
                chunks.append(chunk)
        return StepPlan(vacated=self.slots.take_vacated(), chunks=tuple(chunks))

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Take in what a plan brought: at most one event per sequence, finished ones leave their slot."""
        if result.failure is not None:
            for chunk in plan.chunks:
                self._retire(chunk.sequence)
            return [chunk.sequence.broken(result.failure) for chunk in plan.chunks]
        self._measure(plan, result.duration_s)
        events: list[SequenceEvent] = []
        sampled = iter(result.sampled)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            if sequence.is_prefilling:
                sequence.prefill_s += result.duration_s
            else:
                sequence.decode_s += result.duration_s
            sequence.computed += len(chunk.tokens)
            if chunk.wants_logits:
                new = next(sampled)
                event = sequence.accept(new.token, new.piece, is_eog=new.is_eog, n_ctx=self.n_ctx)
                if not isinstance(event, Delta):
                    self._retire(sequence)
                events.append(event)
        return events

    def _chunk(self, sequence: Sequence, limit: int) -> SequenceChunk:
        tokens = sequence.tokens_to_compute(limit)
        assert sequence.seq_id is not None  # live sequences have a slot
        return SequenceChunk(
            sequence=sequence,
            seq_id=sequence.seq_id,
            tokens=tokens,
            position=sequence.computed,
            wants_logits=sequence.computed + len(tokens) == sequence.known_tokens,
        )

    def _prefill_budget(self, decoding: int) -> int:
        """Prompt tokens the next step may read beside `decoding` sequences."""
        room = self.n_batch - decoding
        if decoding == 0:
            return room  # nobody waits for this step
        if self._prefill_token_s is None:
            return min(room, _SMALLEST_CHUNK)  # which finds out how long a token takes
        spare_s = self.target_step_s - (self._decode_step_s or 0.0)
        return min(room, max(_SMALLEST_CHUNK, int(spare_s / self._prefill_token_s)))

    def _measure(self, plan: StepPlan, duration_s: float) -> None:
        prefilled = sum(len(c.tokens) for c in plan.chunks if c.sequence.is_prefilling)
        decoded = plan.token_count - prefilled
        if prefilled == 0:
            self._decode_step_s = smooth(self._decode_step_s, duration_s)
        elif prefilled >= _SMALLEST_CHUNK:
            reading_s = duration_s - (self._decode_step_s or 0.0 if decoded else 0.0)
            if reading_s > 0:
                self._prefill_token_s = smooth(self._prefill_token_s, reading_s / prefilled)

    def _retire(self, sequence: Sequence) -> None:
        del self._live[sequence.request]
        assert sequence.seq_id is not None  # live sequences have a slot
        self.slots.release(sequence.seq_id)
        sequence.seq_id = None
