"""Decides who begins and what the next step computes. Has no clock, no task and no pointer; `loop` acts on its plans.

A request waits in the `Line` until its seats are free and its cells are reserved, if all share a pool. What is
reserved is counted and not taken: idle prompts stay until their cells are needed. Every decoding sequence is in
every plan. Prefill fills the rest of the batch, oldest request first; while somebody is decoding, only as much of it as
keeps the step near the target time, measured from the steps themselves. When cells run out, idle prompts go first, then
the youngest sequence loses its slot until another one has ended.
"""

from collections import Counter, deque
from itertools import chain
from typing import Final

from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.host_store import Saved
from neuron_lib.engine.line import Line, Request
from neuron_lib.engine.prompt_cache import PromptCache
from neuron_lib.engine.protocol import Delta, SequenceEvent
from neuron_lib.engine.reuse import Awaited, Placement
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import Slot
from neuron_lib.engine.speculation import MAX_DRAFT, DraftPolicy, PromptLookup
from neuron_lib.engine.step import Outcome, Save, SequenceChunk, StepPlan, StepResult
from neuron_lib.engine.step_costs import StepCosts

__all__ = ("Scheduler",)

_HEADROOM: Final = 16
"""Cells that each live sequence should find free before another one joins, so that none loses its slot at once."""

_SMALLEST_SHARE: Final = 16
"""Beside replies no further prompt is begun if fewer tokens than this are left in the step. It would be computed in a
piece of its own, which takes long for few tokens."""

_GATHER_EVERY: Final = 8
"""Steps after which a gap between live sequences is closed. A newcomer has mostly taken the free slot by then."""


class Scheduler:
    """The requests of one context, and their sequences once they have begun: each live one has a slot of the cache.

    There are as many seats as slots. A request that begins takes a seat for each of its sequences, at most all seats.
    A sequence keeps its seat while it waits for a slot, be it for a prefix that another one computes, or because cells
    ran out. All live sequences have the same adapter.

    `n_ctx` bounds a sequence, prompt and reply together, in tokens. `speculation` is "auto" to guess ahead where that
    pays, "on" to do so always, "off" also where the memory cannot take guesses back.
    """

    def __init__(
        self,
        *,
        cache: PromptCache,
        cells: CellAccount,
        costs: StepCosts,
        n_batch: int,
        n_ctx: int,
        speculation: str = "off",
    ) -> None:
        if len(cache.slots) > n_batch:
            raise ValueError(f"{len(cache.slots)} seats cannot decode in one batch of {n_batch} tokens")
        self.cache: Final = cache
        self.cells: Final = cells
        self.costs: Final = costs
        self.n_batch: Final = n_batch
        self.n_ctx: Final = n_ctx
        self._speculation: Final = speculation
        self._batch_limit = n_batch  # smaller for a while after libllama found no cells for a batch
        self._steps_apart = 0  # steps since the live sequences have a gap between them
        self._live_limit = len(cache.slots)  # smaller after one had to give way, until another one has ended
        self._line: Final = Line()
        self._running: dict[int, Request] = {}  # by number: begun, and not ended
        self._pending: deque[Sequence] = deque()  # of running requests, without a slot; those that lost it come first
        self._live: list[Sequence] = []  # in order of arrival
        self._awaited: dict[Sequence, Awaited] = {}
        self._guesses: dict[Sequence, tuple[PromptLookup, DraftPolicy]] = {}

    def __repr__(self) -> str:
        counts = f"{len(self._line)} waiting, {len(self._pending)} pending, {len(self._live)} live"
        return f"<Scheduler {counts}, {self.cache!r}>"

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody, neither waiting nor begun."""
        return not (self._live or self._pending or len(self._line))

    @property
    def in_flight(self) -> int:
        """Sequences that are not finished, those of waiting requests included."""
        waiting = sum(len(request.sequences) for request in self._line)
        return waiting + len(self._pending) + len(self._live)

    @property
    def prefill_tok_s(self) -> float:
        """Tokens of prompts that are read in a second beside nothing else; 0.0 before this was measured."""
        return self.costs.prefill_tok_s

    def cells_in_use(self) -> tuple[int, int]:
        """The cells that are taken, and those of them that live sequences have. Any thread may ask, to show them."""
        # Each slot is looked at once: the thread of the engine may take it away between two looks.
        seq_ids = [live.seq_id for live in self._live.copy()]
        lengths = [self.cells.length(seq_id) for seq_id in seq_ids if seq_id is not None]
        held = self.cells.used
        return held, min(sum(lengths), held)  # what they share is there once

    def submit(self, request: Request) -> None:
        """Let a request wait in the line. Raises ValueError for one that can never run."""
        if request.seats > len(self.cache.slots):
            raise ValueError(f"a request for {request.seats} seats, where there are {len(self.cache.slots)}")
        for sequence in request.sequences:
            if not 0 < len(sequence.prompt) <= self.n_ctx:
                raise ValueError(f"a prompt of {len(sequence.prompt)} tokens does not fit {self.n_ctx} cells")
        self._line.enter(request)

    def cancel(self, number: int) -> None:
        """Drop a request wherever it is. An unknown number is ignored, because a cancel may cross the end."""
        self._line.leave(number)
        for sequence in [s for s in self._live if s.request == number]:
            self._retire(sequence)
        for sequence in [s for s in self._pending if s.request == number]:
            self._pending.remove(sequence)
            self._live_limit = len(self.cache.slots)  # it may be the one that had to give way
            self._forget(sequence)

    # ------------------------------------------------------------------------------------------------------- planning

    def plan(self, now_s: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute. `now_s` is the time by the engine's clock."""
        self._make_room()
        live = len(self._live)
        began = self._begin_requests(now_s)
        if not self._live:
            return None
        self._gather(at_once=len(self._live) > live)
        chunks = self._chunks()
        while not chunks:  # prompts that are half read hold all the cells
            self._give_way()
            chunks = self._chunks()
        return StepPlan(edits=self.cache.take_edits(), chunks=tuple(chunks), began=tuple(began))

    def _gather(self, *, at_once: bool) -> None:
        """Close the gaps between live sequences. A new gap waits a while, because a newcomer may take the free slot."""
        self._steps_apart = 0 if self.cache.is_gathered else self._steps_apart + 1
        if self._steps_apart and (at_once or self._steps_apart % _GATHER_EVERY == 0):
            self.cache.gather()

    def _chunks(self) -> list[SequenceChunk]:
        decoding = [s for s in self._live if s.remaining == 1]
        reading = [s for s in self._live if s.remaining > 1]
        room = self._batch_limit - len(decoding)
        chunks = []
        for sequence in decoding:
            guesses = [] if reading else self._guess(sequence, decoding=self._batch_limit - room, room=room)
            room -= len(guesses)
            chunks.append(self._chunk(sequence, 1, guesses))
        budget = self.costs.prefill_budget(decoding=len(decoding), room=room)
        for sequence in reading:
            limit = min(budget, self.cells.room(_seq_id(sequence)))
            if limit <= 0 or (decoding and budget < _SMALLEST_SHARE):
                break
            chunk = self._chunk(sequence, limit, [])
            budget -= len(chunk.tokens)
            chunks.append(chunk)
        chunks.sort(key=lambda chunk: chunk.seq_id)  # in this order neighbours are computed in one piece
        return chunks

    def _chunk(self, sequence: Sequence, limit: int, guesses: list[int]) -> SequenceChunk:
        """The next known tokens, at most `limit` and none behind the next checkpoint, and the guesses behind them."""
        start, seq_id = sequence.computed, _seq_id(sequence)
        end = min([start + limit, len(sequence.tokens), *(at for at in sequence.checkpoint_at if at > start)])
        tokens = sequence.tokens[start:end] + guesses
        self.cells.extend(seq_id, len(tokens))
        return SequenceChunk(
            sequence=sequence,
            seq_id=seq_id,
            tokens=tokens,
            position=start,
            wants_logits=end == len(sequence.tokens),
            drafted=len(guesses),
            checkpoint=self.cache.checkpoint(sequence, end) if end in sequence.checkpoint_at else None,
        )

    def _guess(self, sequence: Sequence, *, decoding: int, room: int) -> list[int]:
        """Tokens that may come next, if guessing them pays."""
        if self._speculation == "off":
            return []
        if sequence not in self._guesses:
            self._guesses[sequence] = PromptLookup(), DraftPolicy()
        lookup, policy = self._guesses[sequence]
        limit = min(
            room,
            MAX_DRAFT,
            self.cells.room(_seq_id(sequence)) - decoding,
            sequence.max_tokens - sequence.generated - 1,
            self.n_ctx - len(sequence.tokens) - 1,
        )
        guesses = lookup.draft(sequence.tokens, limit) if limit > 0 else []
        if guesses and self._speculation == "auto":
            del guesses[policy.length(self.costs, decoding=decoding) :]
        return guesses

    def _make_room(self) -> None:
        """Free cells until every decoding sequence has one for its next token."""
        while not self.cells.fits([_seq_id(s) for s in self._live if s.remaining == 1]):
            self._give_way()

    def _give_way(self) -> None:
        """Free the cells of the prompt that was unused for longest, or else those of the youngest sequence."""
        used = [slot for slot in self.cache.idle if slot.tokens]
        if used:
            self.cache.evict(used[0])
            return
        youngest = self._live.pop()
        self._live_limit = len(self._live)
        self.cache.release(youngest)
        self._pending.appendleft(youngest)

    def _begin_requests(self, now_s: float) -> list[Request]:
        """Give slots to those that have begun, then let others begin as far as there are seats and cells for them."""
        began: list[Request] = []
        while self._give_slots():
            free_seats = len(self.cache.slots) - len(self._live) - len(self._pending)
            if free_seats <= 0 or not len(self._line):
                break
            request = self._line.next(self._seats_held(), free_seats=free_seats)
            if request is None or not self._fits_batch(request):
                break
            if not self._give_slot(request.sequences[0], beside=self._to_follow(request)):
                break
            self._line.begin(request)
            self._running[request.number] = request
            for sequence in request.sequences:
                sequence.queue_s = now_s - request.arrived_s
                if sequence.seq_id is None:
                    self._pending.append(sequence)
            began.append(request)
        return began

    def _seats_held(self) -> Counter[str]:
        """The seats that each caller holds. Of sequences that take turns, all that are not done count."""
        return Counter(self._running[sequence.request].caller for sequence in chain(self._live, self._pending))

    def _fits_batch(self, request: Request) -> bool:
        """Whether the request can be computed together with those that run: a batch has one adapter."""
        return all(running.class_.adapter == request.class_.adapter for running in self._running.values())

    def _give_slots(self) -> bool:
        """Give slots to pending sequences, in order. False if one finds none, so that nobody may overtake it."""
        for sequence in list(self._pending):
            if not self._give_slot(sequence):
                return False
            if sequence.seq_id is not None:
                self._pending.remove(sequence)
        return True

    def _to_follow(self, request: Request) -> int:
        """The cells that will be taken by those without a slot: all but the first of the request's sequences that run
        at the same time, and those that wait for a prefix.
        """
        first, *others = request.sequences[: request.seats]
        shares, cells = self.cells.shares, 0
        for each in others:
            shared = len(first.prompt) - 1 if shares and each.prompt is first.prompt else 0
            cells += len(each.prompt) - shared + self._to_come(each)
        for each in self._pending:
            shared = self._awaited[each].length if shares and each in self._awaited else 0
            cells += len(each.tokens) - shared + self._to_come(each)
        return cells

    def _to_come(self, sequence: Sequence) -> int:
        """The cells that are kept free for a sequence beside those of its known tokens."""
        return max(_HEADROOM, sequence.reserved_cells(n_ctx=self.n_ctx))

    def _give_slot(self, sequence: Sequence, *, beside: int | None = None) -> bool:
        """Give a sequence a slot, unless it waits for a prefix that another one computes. False if there is no slot or
        no cell for it.

        The first sequence of a request that begins must leave `beside` cells for others without a slot. None for a
        sequence whose request has begun.
        """
        if len(self._live) >= self._live_limit:
            return False
        awaited = self._awaited.get(sequence)
        if awaited is not None and awaited.is_coming:
            return True
        place = self.cache.find(sequence)
        if isinstance(place, Awaited):
            shared = place.length if self.cells.shares else 0
            if beside is not None and not self._leaves_room(len(sequence.tokens) - shared + beside, sequence):
                return False
            self._awaited[sequence] = place
            return True
        place = None if place is None else self._find_cells(place, sequence, beside=beside or 0)
        if place is None:
            return False
        self._awaited.pop(sequence, None)
        self.cache.occupy(sequence, place)
        self._live.append(sequence)
        self._live.sort(key=lambda live: (live.request, live.choice))
        return True

    def _leaves_room(self, cells: int, sequence: Sequence, *, kept: object = None) -> bool:
        """Whether a newcomer finds `cells` cells, and those for its reply, beside all that live sequences have
        reserved. Idle prompts do not count, because they can go; the one that is `kept` cannot.
        """
        if not self._live:
            return True
        idle = [slot.seq_id for slot in self.cache.idle if slot is not kept]
        unread = sum(live.remaining - 1 for live in self._live)
        reserved = sum(map(self._to_come, self._live)) + self._to_come(sequence)
        return self.cells.room_without(idle) >= cells + unread + reserved

    def _find_cells(self, place: Placement, sequence: Sequence, *, beside: int) -> Placement | None:
        """Evict idle prompts until the newcomer has its cells. None, and nothing is evicted, if that is not enough."""
        needed = place.source if isinstance(place.source, Saved) else None
        # If nothing of the target slot is reused, the slot may be evicted like any other idle slot.
        kept = place.slot if place.source is None and place.beginning.length else place.source
        if not self._leaves_room(place.cells + beside, sequence, kept=kept):
            return None
        idle = [slot for slot in self.cache.idle if slot is not kept]
        unread = sum(live.remaining - 1 for live in self._live)
        cells = place.cells + unread + _HEADROOM * (len(self._live) + 1)  # what is reserved is freed when it is needed
        while idle and self.cells.room_without(()) < cells:
            self.cache.evict(idle.pop(0), needed=needed)
        if isinstance(place.source, Slot) and self.cells.room_without(()) < place.cells:
            # Nobody is live, so the original is idle, and there is no room for a copy beside it.
            return Placement(place.source, place.beginning, None, 0)
        return place

    # ------------------------------------------------------------------------------------------------------- applying

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Take in what a plan brought. Returns at most one event for each sequence; ended ones leave their slot."""
        self._note_memory(plan, result)
        for seq_id in result.lost:
            self.cache.forget(seq_id)
        for sequence in [s for s in self._live if s.seq_id in result.lost]:
            sequence.begin(reused=0)
        chunks = [chunk for chunk in plan.chunks if chunk.seq_id not in result.lost]
        match result.outcome:
            case Outcome.COMPUTED:
                self._batch_limit = min(self.n_batch, 2 * self._batch_limit)
                return self._advance(chunks, result)
            case Outcome.NO_CELLS:
                for chunk in chunks:
                    self.cache.trim(chunk.seq_id, chunk.position)
                return self._shrink(result.message)
            case Outcome.FAILED:
                return self._break([chunk.sequence for chunk in chunks], result.message)

    def _advance(self, chunks: list[SequenceChunk], result: StepResult) -> list[SequenceEvent]:
        read = sum(len(chunk.tokens) for chunk in chunks if chunk.sequence.remaining > 1)
        decoded = sum(len(chunk.tokens) for chunk in chunks) - read
        self.costs.observe(decoded=decoded, prefilled=read, duration_s=result.duration_s)
        events: list[SequenceEvent] = []
        sampled = iter(result.sampled)
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.generated:
                sequence.decode_s += result.duration_s
            else:
                sequence.prefill_s += result.duration_s
            if not chunk.wants_logits:
                sequence.computed += len(chunk.tokens)
                continue
            new = next(sampled)
            right = max(0, len(new) - 1)
            sequence.computed += len(chunk.tokens) - chunk.drafted + right
            self.cache.trim(chunk.seq_id, sequence.computed)
            if not new:
                continue  # broken, see below
            if chunk.drafted:
                self._guesses[sequence][1].observe(drafted=chunk.drafted, right=right)
            event = sequence.accept(new, n_ctx=self.n_ctx)
            if not isinstance(event, Delta):
                self._retire(sequence)
            events.append(event)
        for breach in result.broken:
            events += self._break([s for s in self._live if s.seq_id == breach.seq_id], breach.message, breach.param)
        return events

    def _shrink(self, message: str) -> list[SequenceEvent]:
        """Ask for less the next time: drop an idle prompt, else a sequence, else halve the batch."""
        if len(self._live) > 1 or any(slot.tokens for slot in self.cache.idle):
            self._give_way()
        elif self._batch_limit > 1:
            self._batch_limit //= 2
        else:
            return self._break(self._live.copy(), message)
        return []

    def _break(self, sequences: list[Sequence], message: str, param: str | None = None) -> list[SequenceEvent]:
        """End their requests, with all choices: one event each."""
        broken = {sequence.request: sequence for sequence in sequences}
        for request in broken:
            self.cancel(request)
        return [sequence.broken(message, param=param) for sequence in broken.values()]

    def _note_memory(self, plan: StepPlan, result: StepResult) -> None:
        self.costs.observe_move(tokens=result.moved, duration_s=result.move_s)
        asked_for = [edit.key for edit in plan.edits if isinstance(edit, Save)]
        asked_for += [chunk.checkpoint for chunk in plan.chunks if chunk.checkpoint is not None]
        if asked_for:
            self.cache.note_kept(result.kept, asked_for)

    def _retire(self, sequence: Sequence) -> None:
        self._live.remove(sequence)
        self._live_limit = len(self.cache.slots)
        self.cache.release(sequence)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self._awaited.pop(sequence, None)
        self._guesses.pop(sequence, None)
        if not any(other.request == sequence.request for other in chain(self._live, self._pending)):
            self._running.pop(sequence.request, None)


def _seq_id(sequence: Sequence) -> int:
    assert sequence.seq_id is not None  # a live sequence has a slot
    return sequence.seq_id
