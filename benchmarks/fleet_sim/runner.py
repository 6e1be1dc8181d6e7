"""Executes plans without a model: steps take the time of a table, and a reply is one token again and again."""

from typing import Final, assert_never

from benchmarks.fleet_sim.step_times import StepTimes
from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.sequence import Sampled
from neuron_lib.engine.step import Copy, Drop, Edit, Restore, Rewind, Save, StepPlan, StepResult, Swap, Truncate

__all__ = ("SimulatedRunner",)

_SOME_TOKEN: Final = 1000


class SimulatedRunner:
    """Knows how many tokens each slot holds, as the memory of a model does.

    `replies` has the token of each request, and each of these tokens has the text `piece`. `shares` says whether a copy
    from slot to slot takes no time.
    """

    def __init__(self, times: StepTimes, *, cells: CellAccount, seats: int, shares: bool, piece: bytes = b"") -> None:
        self.replies: Final[dict[int, int]] = {}
        self._piece: Final = piece
        self._times: Final = times
        self._cells: Final = cells
        self._shares: Final = shares
        self._held = [0] * seats
        self._moved = 0
        self._move_s = 0.0
        self._kept: list[tuple[int, int]] = []

    def edit(self, plan: StepPlan) -> float:
        """Do the edits of the plan. Returns the seconds that they take."""
        self._moved, self._kept = 0, []
        self._move_s = sum(self._times.move_s(self._edit(edit)) for edit in plan.edits)
        return self._move_s

    def result(self, plan: StepPlan, *, times: int, each_s: float) -> StepResult:
        """What the plan has brought, done so many times, with `each_s` seconds for each.

        A chunk of a plan that is done several times is one token of a reply.
        """
        sampled = []
        for chunk in plan.chunks:
            if times > 1:
                self._cells.extend(chunk.seq_id, times - 1)
            self._held[chunk.seq_id] = chunk.position + len(chunk.tokens) + times - 1
            if chunk.wants_logits:
                token = self.replies.get(chunk.sequence.request, _SOME_TOKEN)
                sampled.append((Sampled(token, self._piece),) * times)
        return StepResult(
            sampled=tuple(sampled), duration_s=each_s, kept=tuple(self._kept), moved=self._moved, move_s=self._move_s
        )

    def _edit(self, edit: Edit) -> int:
        """Change what the slots hold. Returns the number of tokens whose state was copied.

        `StepResult.moved` counts them as `LlamaRunner` does: all tokens of the source of a copy.
        """
        held = self._held
        match edit:
            case Truncate(seq_id, length) | Rewind(seq_id, _, length):
                held[seq_id] = min(held[seq_id], length)
                return 0
            case Copy(source, target, length):
                held[target] = length
                self._moved += 0 if self._shares else held[source]
                return 0 if self._shares else length
            case Save(seq_id, key):
                self._kept.append((key, held[seq_id] * self._times.cell_bytes))
                self._moved += held[seq_id]
                return held[seq_id]
            case Restore(_, seq_id, length):
                held[seq_id] = length
                self._moved += length
                return length
            case Swap(first, second):
                held[first], held[second] = held[second], held[first]
                self._moved += held[first] + held[second]
                return held[first] + held[second]
            case Drop():
                return 0
            case _:
                assert_never(edit)
