"""How an engine ended."""

from msgspec import Struct

__all__ = ("Death",)


class Death(Struct, frozen=True):
    """How an engine ended: `reason` in words, and the numbers of the `requests` that the engine was working on.

    An engine that was unloaded has worked on none: nobody is to blame for its end.
    """

    reason: str
    requests: frozenset[int]
