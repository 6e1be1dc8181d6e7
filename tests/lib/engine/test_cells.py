"""The accounts, beside memories that are made of cells: one object for each, shared where libllama shares it."""

from collections.abc import Collection, Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from neuron_lib.engine.cells import CellAccount, PooledCells, StreamCells
from tests.examples import examples

SEATS = 4


class CountedCells(RuleBasedStateMachine):
    """Any order of changes, also those that cannot be made. Each sequence is a list of cells, which are numbers."""

    is_pooled = True

    @initialize(capacity=st.integers(1, 60), shares=st.booleans())
    def begin(self, *, capacity: int, shares: bool) -> None:
        self.capacity = capacity
        self.shares = shares and self.is_pooled
        self.account: CellAccount = StreamCells(SEATS, capacity)
        if self.is_pooled:
            self.account = PooledCells(SEATS, capacity, shares=shares)
        self.sequences: list[list[int]] = [[] for _ in range(SEATS)]
        self.made = 0

    def new(self, count: int) -> list[int]:
        self.made += count
        return list(range(self.made - count, self.made))

    def used(self, seq_ids: Iterable[int] = range(SEATS)) -> int:
        return len({cell for seq_id in seq_ids for cell in self.sequences[seq_id]})

    def room(self, seq_id: int) -> int:
        return self.capacity - (self.used() if self.is_pooled else len(self.sequences[seq_id]))

    @rule(seq_id=st.integers(0, SEATS - 1), count=st.integers(1, 30))
    def extend(self, seq_id: int, count: int) -> None:
        if count > self.room(seq_id):
            with pytest.raises(ValueError, match="do not fit"):
                self.account.extend(seq_id, count)
            return
        self.account.extend(seq_id, count)
        self.sequences[seq_id] += self.new(count)

    @rule(seq_id=st.integers(0, SEATS - 1), share=st.floats(0, 2))
    def truncate(self, seq_id: int, share: float) -> None:
        length = int(len(self.sequences[seq_id]) * share)
        self.account.truncate(seq_id, length)
        del self.sequences[seq_id][length:]

    @rule(source=st.integers(0, SEATS - 1), step=st.integers(1, SEATS - 1), share=st.floats(0, 1) | st.just(1.0))
    def copy(self, source: int, step: int, share: float) -> None:
        target, length = (source + step) % SEATS, int(len(self.sequences[source]) * share)
        if self.sequences[target]:
            with pytest.raises(ValueError, match="still holds"):
                self.account.copy(source, target, length)
            self.truncate(target, 0)
        with pytest.raises(ValueError, match=f"sequence {source} holds"):
            self.account.copy(source, target, len(self.sequences[source]) + 1)
        if not self.shares and length > self.room(target):
            with pytest.raises(ValueError, match="do not fit"):
                self.account.copy(source, target, length)
            return
        self.account.copy(source, target, length)
        self.sequences[target] = self.sequences[source][:length] if self.shares else self.new(length)

    @rule(first=st.integers(0, SEATS - 1), second=st.integers(0, SEATS - 1))
    def swap(self, first: int, second: int) -> None:
        self.account.swap(first, second)
        self.sequences[first], self.sequences[second] = self.sequences[second], self.sequences[first]

    @rule(seq_ids=st.sets(st.integers(0, SEATS - 1)))
    def the_future_is_known(self, seq_ids: Collection[int]) -> None:
        if self.is_pooled:
            others = [seq_id for seq_id in range(SEATS) if seq_id not in seq_ids]
            assert self.account.fits(seq_ids) == (self.used() + len(seq_ids) <= self.capacity)
            assert self.account.room_without(seq_ids) == self.capacity - self.used(others)
        else:
            assert self.account.fits(seq_ids) == all(len(self.sequences[s]) < self.capacity for s in seq_ids)
            assert self.account.room_without(seq_ids) >= self.capacity

    @invariant()
    def accounts_are_exact(self) -> None:
        if not hasattr(self, "account"):
            return
        for seq_id, cells in enumerate(self.sequences):
            assert self.account.length(seq_id) == len(cells)
            assert self.account.room(seq_id) == self.room(seq_id)
        if isinstance(self.account, PooledCells):
            assert self.account.used == self.used()


class CountedStreams(CountedCells):
    """The same where every seat has cells of its own."""

    is_pooled = False


TestPool = CountedCells.TestCase
TestStreams = CountedStreams.TestCase
TestPool.settings = TestStreams.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


def test_shared_cells_are_free_when_their_last_owner_is_gone() -> None:
    cells = PooledCells(3, 100)
    cells.extend(0, 60)
    cells.copy(0, 1, 50)
    cells.copy(1, 2, 40)
    assert (cells.used, cells.room_without([0]), cells.room_without([0, 1]), cells.room_without([0, 1, 2])) == (
        60,
        50,
        60,
        100,
    )
    cells.truncate(0, 0)
    cells.truncate(1, 0)
    assert cells.used == 40


@pytest.mark.parametrize("cells", [PooledCells(2, 10), StreamCells(2, 10)])
def test_an_account_shows_what_it_holds(cells: CellAccount) -> None:
    cells.extend(1, 7)
    assert "7" in repr(cells)
