"""Decides what the next step computes. Holds no clock, no task and no pointer; `loop` acts on its plans.

Every decoding sequence is in every plan. Prefill fills the rest of the batch, oldest request first; while somebody is
decoding, only as much of it as keeps the step near the target time, measured from the steps themselves. When cells run
out, idle prompts go first, then the youngest sequence goes back to waiting.
"""

from collections import deque
from typing import Final

from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.host_store import Saved
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
"""Cells that every live sequence should find before another one joins, so that it need not leave again at once."""

_SMALLEST_SHARE: Final = 16
"""Tokens of a step beside replies below which no further prompt is begun: it would be computed in a piece of its own,
which takes long for few tokens."""

_GATHER_EVERY: Final = 8
"""Steps after which a gap between live sequences is closed. Whoever takes the next turn is mostly there by then."""


class Scheduler:
    """The sequences of one context: waiting ones in order of arrival, live ones each in a slot of the prompt cache.

    `n_ctx` bounds a sequence, prompt and reply together; a prompt must fit, which the daemon has checked. `speculation`
    is "auto" to guess ahead where it pays, "on" to do so always, "off" also where the memory cannot take guesses back.
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
        self._batch_limit = n_batch  # less for a while after libllama found no cells for a batch
        self._steps_apart = 0  # since the live sequences had a gap between them
        self._live_limit = len(cache.slots)  # less after one had to leave, until another is done
        self._waiting: deque[Sequence] = deque()
        self._live: list[Sequence] = []  # in order of arrival
        self._arrivals: dict[Sequence, int] = {}
        self._arrived = 0
        self._awaited: dict[Sequence, Awaited] = {}
        self._guesses: dict[Sequence, tuple[PromptLookup, DraftPolicy]] = {}

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._waiting)} waiting, {len(self._live)} live, {self.cache!r}>"

    @property
    def in_flight(self) -> int:
        """Sequences that are not finished, waiting ones included."""
        return len(self._waiting) + len(self._live)

    def submit(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises ValueError for one that can never run."""
        if not 0 < len(sequence.prompt) <= self.n_ctx:
            raise ValueError(f"a prompt of {len(sequence.prompt)} tokens does not fit {self.n_ctx} cells")
        self._arrived += 1
        self._arrivals[sequence] = self._arrived
        self._waiting.append(sequence)

    def cancel(self, request: int) -> None:
        """Drop all sequences of a request wherever they are; unknown numbers are ignored, because a cancel may cross a
        finish.
        """
        for sequence in [s for s in self._live if s.request == request]:
            self._retire(sequence)
        for sequence in [s for s in self._waiting if s.request == request]:
            self._waiting.remove(sequence)
            self._forget(sequence)

    # ------------------------------------------------------------------------------------------------------- planning

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute."""
        self._make_room()
        has_joined = self._admit()
        if not self._live:
            return None
        self._gather(at_once=has_joined)
        chunks = self._chunks()
        while not chunks:  # prompts that are half read hold all the cells
            self._give_way()
            chunks = self._chunks()
        return StepPlan(edits=self.cache.take_edits(), chunks=tuple(chunks))

    def _gather(self, *, at_once: bool) -> None:
        """Close the gaps between live sequences. One that somebody has just left is kept for a newcomer for a while."""
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
            limit = min(budget, self.cells.room(_seat(sequence)))
            if limit <= 0 or (decoding and budget < _SMALLEST_SHARE):
                break
            chunk = self._chunk(sequence, limit, [])
            budget -= len(chunk.tokens)
            chunks.append(chunk)
        chunks.sort(key=lambda chunk: chunk.seq_id)  # neighbours are computed in one piece, if they come in order
        return chunks

    def _chunk(self, sequence: Sequence, limit: int, guesses: list[int]) -> SequenceChunk:
        """The next known tokens, at most `limit` and none behind the next checkpoint, and the guesses behind them."""
        start, seq_id = sequence.computed, _seat(sequence)
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
            self.cells.room(_seat(sequence)) - decoding,
            sequence.max_tokens - sequence.generated - 1,
            self.n_ctx - len(sequence.tokens) - 1,
        )
        guesses = lookup.draft(sequence.tokens, limit) if limit > 0 else []
        if guesses and self._speculation == "auto":
            del guesses[policy.length(self.costs, decoding=decoding) :]
        return guesses

    def _make_room(self) -> None:
        """See that every decoding sequence finds a cell for its next token."""
        while not self.cells.fits([_seat(s) for s in self._live if s.remaining == 1]):
            self._give_way()

    def _give_way(self) -> None:
        """Free cells: those of the prompt unused for longest, or else those of the youngest sequence."""
        used = [slot for slot in self.cache.idle if slot.tokens]
        if used:
            self.cache.evict(used[0])
            return
        youngest = self._live.pop()
        self._live_limit = len(self._live)
        self.cache.release(youngest)
        self._waiting.appendleft(youngest)

    def _admit(self) -> bool:
        """Seat who waits, as far as there are places and cells; whether anybody was."""
        has_joined = False
        for sequence in list(self._waiting):
            if len(self._live) >= self._live_limit:
                return has_joined
            awaited = self._awaited.get(sequence)
            if awaited is not None and awaited.is_coming:
                continue
            place = self.cache.find(sequence)
            if place is None:
                return has_joined
            if isinstance(place, Awaited):
                self._awaited[sequence] = place
                continue
            place = self._find_cells(place)
            if place is None:
                return has_joined
            self._awaited.pop(sequence, None)
            self._waiting.remove(sequence)
            self.cache.seat(sequence, place)
            self._live.append(sequence)
            self._live.sort(key=self._arrivals.__getitem__)
            has_joined = True
        return has_joined

    def _find_cells(self, place: Placement) -> Placement | None:
        """Evict idle prompts until the newcomer finds its cells; None, and nothing done, if that would not do."""
        needed = place.source if isinstance(place.source, Saved) else None
        # A slot of which nothing will be used is as good as any to find cells in.
        kept = place.slot if place.source is None and place.beginning.length else place.source
        idle = [slot for slot in self.cache.idle if slot is not kept]
        unread = sum(sequence.remaining - 1 for sequence in self._live)
        cells = place.cells + unread + _HEADROOM * (len(self._live) + 1)
        if self._live and self.cells.room_without([slot.seq_id for slot in idle]) < cells:
            return None
        while idle and self.cells.room_without(()) < cells:
            self.cache.evict(idle.pop(0), needed=needed)
        if isinstance(place.source, Slot) and self.cells.room_without(()) < place.cells:
            # Nobody is live, so the original is idle, and there is no room for a copy beside it.
            return Placement(place.source, place.beginning, None, 0)
        return place

    # ------------------------------------------------------------------------------------------------------- applying

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceEvent]:
        """Take in what a plan brought: at most one event per sequence, finished ones leave their slot."""
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
        """Ask for less the next time: fewer idle prompts, fewer sequences, a smaller batch, in this order."""
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
        del self._arrivals[sequence]
        self._awaited.pop(sequence, None)
        self._guesses.pop(sequence, None)


def _seat(sequence: Sequence) -> int:
    assert sequence.seq_id is not None  # live sequences have a slot
    return sequence.seq_id
