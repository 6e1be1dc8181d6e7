"""How often a request has been passed on from one host to the next one. Pure. Importing this is cheap."""

import re
from typing import Final

from neuron_lib.errors import RequestLoop

__all__ = ("HOPS_HEADER", "MOST_HOPS", "read_hops")

HOPS_HEADER: Final = "x-neuron-hops"
MOST_HOPS: Final = 4
"""A request that more hosts have passed on goes round in a circle."""
_COUNT: Final = re.compile(r"[0-9]{1,3}")


def read_hops(value: str | None) -> int:
    """The hosts that have passed a request with this header on; 0 for a value that is no number.

    Raises `RequestLoop` for too many.
    """
    hops = int(value) if value is not None and _COUNT.fullmatch(value) else 0
    if hops > MOST_HOPS:
        raise RequestLoop(hops)
    return hops
