"""Chooses one pool of cells for all sequences, or cells of its own for each. Pure: from numbers, before a context is
made.

`per_sequence` computes faster, because attention does not look at the cells of other sequences. `unified` gives one
request the whole pool while it is alone. Long contexts need that if the cells for all sequences do not fit.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ("KvLayout", "choose_layout")

_SHARE_OF_FREE: Final = 0.9
"""The share of the free memory that cells may take. The rest is for the buffers of the computation."""
_STEP: Final = 256
"""libllama rounds cells up to a multiple of this."""


@dataclass(slots=True, frozen=True)
class KvLayout:
    """`cells` is the sum over all slots, or the size of the pool."""

    unified: bool
    cells: int


def choose_layout(
    *,
    wanted: str,
    seats: int,
    n_ctx: int,
    kv_cells: int,
    bytes_per_cell: int,
    free_bytes: int,
    bytes_per_seat: int = 0,
) -> KvLayout:
    """The layout for `seats` sequences of up to `n_ctx` tokens.

    `wanted` is `per_sequence`, `unified` or `auto`. `auto` is `per_sequence` if that fits into `free_bytes`, and into
    `kv_cells` if given. A pool has `kv_cells` cells; 0 means as many as fit and as all slots could fill.
    `bytes_per_seat` is what a sequence costs in addition to its cells. A pool smaller than `n_ctx` shortens the context
    of a request. A configured number is never lowered here, so it fails when the context is made.
    """
    streams = seats * n_ctx
    spare_bytes = int(free_bytes * _SHARE_OF_FREE) - seats * bytes_per_seat
    fitting = spare_bytes // bytes_per_cell if bytes_per_cell else streams
    room = min(fitting, kv_cells) if kv_cells else fitting
    if wanted == "per_sequence" or (wanted == "auto" and streams <= room):
        return KvLayout(unified=False, cells=streams)
    cells = kv_cells or min(streams, max(_STEP, fitting // _STEP * _STEP))
    return KvLayout(unified=True, cells=cells)
