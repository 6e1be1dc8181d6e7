"""An exact account of the cells of the context, counted as libllama counts them. Pure; changes no native memory.

A cell is the attention state of one token. In the layout `per_sequence` every slot has cells of its own. In the layout
`unified` there is one pool, in which a copied prefix is shared and counted once.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

__all__ = ("CellAccount", "PooledCells", "StreamCells")


class CellAccount(Protocol):
    """The cells of one context. Lives as long as the context. Sequences are named by their `seq_id`; all lengths are in
    tokens.
    """

    shares: bool
    """Whether a copy uses the cells of the original."""
    has_neighbours: bool
    """Whether sequences are computed together only if their `seq_id`s are consecutive."""

    @property
    def used(self) -> int:
        """The cells that all sequences hold together, shared ones counted once."""
        ...

    def length(self, seq_id: int) -> int:
        """The cells that the sequence holds, shared ones included."""
        ...

    def room(self, seq_id: int) -> int:
        """The tokens by which the sequence could grow now if no other sequence grew."""
        ...

    def fits(self, seq_ids: Collection[int]) -> bool:
        """Whether all of these sequences together can grow by one token each."""
        ...

    def room_without(self, idle: Collection[int]) -> int:
        """The tokens for which a new sequence would find cells if the idle sequences were cleared."""
        ...

    def extend(self, seq_id: int, count: int) -> None:
        """Take cells for `count` more tokens. Raises ValueError if there are too few."""
        ...

    def truncate(self, seq_id: int, length: int) -> None:
        """Free the cells behind the first `length` tokens. A shorter sequence does not change."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Give the first `length` tokens of `source` to `target`, which must be empty."""
        ...

    def swap(self, first: int, second: int) -> None:
        """Exchange two sequences."""
        ...


class StreamCells:
    """The account of the layout `per_sequence`: every slot owns `capacity` cells, and nothing is shared."""

    shares = False
    has_neighbours = True

    def __init__(self, seats: int, capacity: int) -> None:
        self._capacity = capacity
        self._lengths = [0] * seats

    def __repr__(self) -> str:
        return f"<StreamCells {self._lengths} of {self._capacity} each>"

    @property
    def used(self) -> int:
        return sum(self._lengths)

    def length(self, seq_id: int) -> int:
        return self._lengths[seq_id]

    def room(self, seq_id: int) -> int:
        return self._capacity - self._lengths[seq_id]

    def fits(self, seq_ids: Collection[int]) -> bool:
        return all(self._lengths[seq_id] < self._capacity for seq_id in seq_ids)

    def room_without(self, idle: Collection[int]) -> int:
        del idle
        return sys.maxsize  # the cells of its own slot are always free

    def extend(self, seq_id: int, count: int) -> None:
        if count > self.room(seq_id):
            raise ValueError(f"{count} tokens do not fit the {self.room(seq_id)} cells that seat {seq_id} has left")
        self._lengths[seq_id] += count

    def truncate(self, seq_id: int, length: int) -> None:
        self._lengths[seq_id] = min(length, self._lengths[seq_id])

    def copy(self, source: int, target: int, length: int) -> None:
        _check_copy(self, source, target, length)
        self._lengths[target] = length

    def swap(self, first: int, second: int) -> None:
        lengths = self._lengths
        lengths[first], lengths[second] = lengths[second], lengths[first]


@dataclass(slots=True, eq=False)
class _Span:
    """Consecutive cells with the same owners. A sequence is the path from its last span to the first."""

    parent: "_Span | None"
    length: int
    owners: int


class PooledCells:
    """The account of the layout `unified`: all sequences take cells from one pool of `capacity`."""

    has_neighbours = False

    def __init__(self, seats: int, capacity: int, *, shares: bool = True) -> None:
        self._capacity = capacity
        self.shares = shares
        self.used: int = 0
        self._lengths = [0] * seats
        self._tails: list[_Span | None] = [None] * seats

    def __repr__(self) -> str:
        return f"<PooledCells {self.used} of {self._capacity} used, {self._lengths}>"

    def length(self, seq_id: int) -> int:
        return self._lengths[seq_id]

    def room(self, seq_id: int) -> int:
        del seq_id
        return self._capacity - self.used

    def fits(self, seq_ids: Collection[int]) -> bool:
        return self.used + len(seq_ids) <= self._capacity

    def room_without(self, idle: Collection[int]) -> int:
        seen: dict[_Span, int] = {}
        for seq_id in idle:
            span = self._tails[seq_id]
            while span is not None:
                seen[span] = seen.get(span, 0) + 1
                span = span.parent
        freed = sum(span.length for span, owners in seen.items() if owners == span.owners)
        return self._capacity - self.used + freed

    def extend(self, seq_id: int, count: int) -> None:
        if count > self.room(seq_id):
            raise ValueError(f"{count} tokens do not fit the {self.room(seq_id)} cells that are left")
        tail = self._tails[seq_id]
        if tail is not None and tail.owners == 1:
            tail.length += count
        else:
            self._tails[seq_id] = _Span(parent=tail, length=count, owners=1)
        self.used += count
        self._lengths[seq_id] += count

    def truncate(self, seq_id: int, length: int) -> None:
        if length >= self._lengths[seq_id]:
            return
        kept = self._cut(seq_id, length)
        span = self._tails[seq_id]
        while span is not kept:
            assert span is not None  # `kept` is on the path
            span.owners -= 1
            if span.owners == 0:
                self.used -= span.length
            span = span.parent
        self._tails[seq_id], self._lengths[seq_id] = kept, length

    def copy(self, source: int, target: int, length: int) -> None:
        _check_copy(self, source, target, length)
        if not self.shares:
            self.extend(target, length)
            return
        span = self._tails[target] = self._cut(source, length)
        self._lengths[target] = length
        while span is not None:
            span.owners += 1
            span = span.parent

    def swap(self, first: int, second: int) -> None:
        lengths, tails = self._lengths, self._tails
        lengths[first], lengths[second] = lengths[second], lengths[first]
        tails[first], tails[second] = tails[second], tails[first]

    def _cut(self, seq_id: int, length: int) -> _Span | None:
        """The span that ends at `length`. A span is cut in two if necessary. None for length 0."""
        span, end = self._tails[seq_id], self._lengths[seq_id]
        while span is not None and end - span.length >= length:
            end -= span.length
            span = span.parent
        if span is None or end == length:
            return span
        # The lower part stays the same object, so that the spans behind it need no change.
        upper = _Span(parent=span.parent, length=span.length - (end - length), owners=span.owners)
        span.parent, span.length = upper, end - length
        return upper


def _check_copy(cells: CellAccount, source: int, target: int, length: int) -> None:
    if cells.length(target):
        raise ValueError(f"sequence {target} still holds {cells.length(target)} tokens")
    if length > cells.length(source):
        raise ValueError(f"sequence {source} holds {cells.length(source)} tokens, not {length}")
