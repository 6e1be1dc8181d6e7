"""Chooses one pool of cells for all sequences, or cells of its own for each. Pure: from numbers, before a context is
made.

`per_sequence` computes faster, because attention does not look at the cells of other sequences. `unified` gives one
request the whole pool while it is alone. Long contexts need that if the cells for all sequences do not fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ("CELL_STEP", "DeviceRoom", "KvLayout", "choose_layout", "smaller_pool")

_SHARE_OF_FREE: Final = 0.9
"""The share that cells may take of what weights and buffers leave free. The rest is for all other programs."""
CELL_STEP: Final = 256
"""libllama rounds cells up to a multiple of this."""


@dataclass(slots=True, frozen=True)
class KvLayout:
    """`cells` is the sum over all slots, or the size of the pool."""

    unified: bool
    cells: int


@dataclass(slots=True, frozen=True)
class DeviceRoom:
    """What a device has to hold: `fixed_bytes` in any case, `cell_bytes` for each cell. `free_bytes` are free."""

    cell_bytes: int
    fixed_bytes: int
    free_bytes: int

    @classmethod
    def from_two(cls, *, smaller: tuple[int, int], larger: tuple[int, int], free_bytes: int) -> "DeviceRoom":
        """From two measurements of different size, each as a number of cells and all bytes that it takes."""
        (few, few_bytes), (many, many_bytes) = smaller, larger
        cell_bytes = max(0, many_bytes - few_bytes) // (many - few) if many > few else 0
        return cls(cell_bytes=cell_bytes, fixed_bytes=many_bytes - cell_bytes * many, free_bytes=free_bytes)

    def fitting(self, most: int) -> int:
        """How many cells fit, at most `most`."""
        spare_bytes = int(max(0, self.free_bytes - self.fixed_bytes) * _SHARE_OF_FREE)
        return min(most, spare_bytes // self.cell_bytes) if self.cell_bytes else most


def choose_layout(*, wanted: str, seats: int, n_ctx: int, kv_cells: int, devices: Iterable[DeviceRoom]) -> KvLayout:
    """The layout for `seats` sequences of up to `n_ctx` tokens.

    `wanted` is `per_sequence`, `unified` or `auto`. `auto` is `per_sequence` if that fits on all `devices`, and into
    `kv_cells` if given. A pool has `kv_cells` cells; 0 means as many as fit and as all slots could fill. A pool smaller
    than `n_ctx` shortens the context of a request. A configured number is never lowered here; whether it fits is for
    the plan to say.
    """
    streams = seats * n_ctx
    fitting = min((device.fitting(streams) for device in devices), default=streams)
    room = min(fitting, kv_cells) if kv_cells else fitting
    if wanted == "per_sequence" or (wanted == "auto" and streams <= room):
        return KvLayout(unified=False, cells=streams)
    cells = kv_cells or min(streams, max(CELL_STEP, fitting // CELL_STEP * CELL_STEP))
    return KvLayout(unified=True, cells=cells)


def smaller_pool(layout: KvLayout, *, excess_cells: int) -> KvLayout | None:
    """The pool without the cells that were too many. None if it cannot be smaller."""
    cells = max(CELL_STEP, (layout.cells - excess_cells) // CELL_STEP * CELL_STEP)
    return KvLayout(unified=True, cells=cells) if layout.unified and cells < layout.cells else None
