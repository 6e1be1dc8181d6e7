"""One pool of cells for all sequences, or a stream of its own for each. Pure: decided from numbers, before a context.

Streams compute faster, because attention walks over no stranger's cells. A pool gives one request all of it while it
is alone, which is what long contexts need where the streams would not fit.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ("KvLayout", "choose_layout")

_SHARE_OF_FREE: Final = 0.9
"""The rest is for the buffers of the computation."""
_STEP: Final = 256
"""libllama rounds cells up to a multiple."""


@dataclass(slots=True, frozen=True)
class KvLayout:
    """`cells` is the sum over all streams, or the size of the pool."""

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

    `wanted` is `per_sequence`, `unified` or `auto`, which is per-sequence where that fits `free_bytes`, and `kv_cells`
    if given. A pool has `kv_cells`, 0 being as many as fit and all seats could fill. `bytes_per_seat` is what a
    sequence costs beside its cells. A pool smaller than `n_ctx` shortens the context of a request; a number that was
    asked for is never lowered here, so it fails when the context is made.
    """
    streams = seats * n_ctx
    spare_bytes = int(free_bytes * _SHARE_OF_FREE) - seats * bytes_per_seat
    fitting = spare_bytes // bytes_per_cell if bytes_per_cell else streams
    room = min(fitting, kv_cells) if kv_cells else fitting
    if wanted == "per_sequence" or (wanted == "auto" and streams <= room):
        return KvLayout(unified=False, cells=streams)
    cells = kv_cells or min(streams, max(_STEP, fitting // _STEP * _STEP))
    return KvLayout(unified=True, cells=cells)
