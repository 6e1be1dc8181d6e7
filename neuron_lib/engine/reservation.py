"""How many cells a request reserves before it begins, as if it shared no prompt with any other request. Pure."""

from collections.abc import Sequence as Sequences
from dataclasses import dataclass

from neuron_lib.engine.sequence import Sequence

__all__ = ("Reservation",)


@dataclass(slots=True, frozen=True)
class Reservation:
    """The cells of one context, as requests reserve them.

    `cells` are all of them. In a pool, sequences take what they need, at most `n_ctx` each, and with `shares` the
    choices of one prompt have its cells once. Without a pool each of the `seats` has its share of all cells.
    """

    cells: int
    n_ctx: int
    seats: int
    is_pool: bool
    shares: bool = True

    def of(self, sequences: Sequences[Sequence], *, seats: int) -> int:
        """The cells for these sequences, of which `seats` run at the same time.

        More sequences than seats take turns. They can do so with fewer seats too, so they need no more cells than
        there are.
        """
        if not self.is_pool:
            return seats * (self.cells // self.seats)
        running = sorted(sequences, key=lambda sequence: len(sequence.prompt), reverse=True)[:seats]
        lengths = {id(each.prompt if self.shares else each): len(each.prompt) for each in running}
        cells = sum(lengths.values()) + sum(each.reserved_cells(n_ctx=self.n_ctx) for each in running)
        return min(cells, self.cells) if len(sequences) > seats else cells
