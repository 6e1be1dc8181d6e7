"""What is remembered of a prompt, in a slot or in host memory, and how prompts are compared. Pure.

A token id below zero stands for one position of a piece of media. Two such ids are equal only if the media are equal
there. So all ids are compared alike.
"""

from dataclasses import dataclass
from typing import Protocol

__all__ = ("Checkpoint", "Remembered", "common_prefix")


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The state of a sequence after its first `length` tokens, kept in host memory under the number `key`.

    `nbytes` is an estimate until the runner has reported the size. Lives until `HostStore` drops it.
    """

    key: int
    length: int
    nbytes: int


class Remembered(Protocol):
    """Tokens whose state was computed, and where that state can be turned back to.

    The first `length` tokens of `content` have state. A sequence may reuse it if its `sharing` equals
    `cache_key`. Keys are compared by equality and by nothing else.
    """

    checkpoints: list[Checkpoint]

    @property
    def content(self) -> list[int]:
        """The known tokens."""
        ...

    @property
    def length(self) -> int:
        """The number of tokens that have state."""
        ...

    @property
    def cache_key(self) -> object:
        """Who may reuse it."""
        ...


def common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """The number of tokens, at most `limit`, that both begin with."""
    low, high = 0, min(len(left), len(right), limit)
    # Slices are compared at the speed of memory. Halving finds the position without a loop over tokens.
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
