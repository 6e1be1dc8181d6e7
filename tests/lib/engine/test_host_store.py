"""What is kept in host memory, and what has to go. A byte holds the state of a token."""

import pytest

from neuron_lib.engine.host_store import HostStore, Saved
from neuron_lib.engine.remembered import Checkpoint
from neuron_lib.engine.slots import Slot
from neuron_lib.engine.step import Drop, Edit, Save
from tests.fakes.prompts import text


class Store(HostStore):
    """With a record of the edits, and a runner that keeps everything."""

    def __init__(self, budget_bytes: int = 1000, *, can_truncate: bool = True) -> None:
        self.edits: list[Edit] = []
        super().__init__(budget_bytes=budget_bytes, can_truncate=can_truncate, edits=self.edits)

    def keep(
        self, tokens: list[int], *checkpoints: Checkpoint, cache_key: object = "", needed: Saved | None = None
    ) -> bool:
        """Save a prompt that leaves slot 5, and confirm it if a copy is kept."""
        slot = Slot(5, tokens=tokens, cache_key=cache_key, checkpoints=list(checkpoints))
        is_kept = self.save(slot.seq_id, slot, others=(), needed=needed)
        if is_kept:
            edit = self.edits[-1]
            assert isinstance(edit, Save)
            self.confirm({edit.key: len(tokens)}, expected=[edit.key])
        return is_kept

    def point(self, length: int, nbytes: int = 10) -> Checkpoint:
        """A confirmed checkpoint."""
        point = self.reserve_checkpoint(length)
        assert point is not None
        self.confirm({point.key: nbytes}, expected=[point.key])
        return point

    @property
    def keys(self) -> list[int]:
        """Of the saved prompts, the least recently used first."""
        return [saved.key for saved in self.saved]


# ----------------------------------------------------------------------------------------- what is kept, and for whom


def test_a_prompt_is_saved_once_and_its_beginnings_are_dropped() -> None:
    store = Store()
    assert [store.keep(text(length)) for length in (100, 150, 120, 150)] == [True, True, False, False]
    assert store.edits == [Save(5, 1), Drop(1), Save(5, 2)]
    assert store.nbytes == 150


def test_where_memory_cannot_be_cut_only_an_equal_prompt_replaces_another() -> None:
    store = Store(can_truncate=False)
    assert [store.keep(text(length)) for length in (100, 150, 120, 150)] == [True, True, True, False]
    assert [saved.length for saved in store.saved] == [100, 120, 150]


def test_what_stays_in_another_slot_is_not_saved() -> None:
    store, leaving = Store(), Slot(0, tokens=text(100))
    for other, is_kept in ((text(150), False), (text(100), False), (text(99), True)):
        assert store.save(0, leaving, others=[Slot(1), Slot(2, tokens=other)]) == is_kept
    assert not store.save(0, leaving, others=[Slot(2, tokens=text(150), cache_key="other")])  # the copy is there


def test_prompts_of_another_cache_key_replace_nothing() -> None:
    store = Store()
    assert store.keep(text(150), cache_key="mine")
    assert store.keep(text(100), cache_key="yours")
    assert store.keep(text(200), cache_key=("neither",))
    assert store.nbytes == 450


def test_prompts_with_media_are_the_same_for_the_same_media_only() -> None:
    store = Store()
    kept = [store.keep([*text(60), *media]) for media in ([-5, -6, -7], [-5, -6], [-5, -6, -8], [5, 6])]
    assert kept == [True, False, True, True]


def test_what_is_needed_now_is_not_dropped_as_the_beginning_of_what_is_saved() -> None:
    store = Store()
    store.keep(text(100))
    (needed,) = store.saved
    assert store.keep(text(150), needed=needed)
    assert store.keys == [1, 2]


def test_without_a_budget_nothing_is_kept() -> None:
    store = Store(0)
    assert not store.keep(text(100))
    assert store.reserve_checkpoint(10) is None
    assert (store.edits, store.nbytes) == ([], 0)


# ------------------------------------------------------------------------------------------------------- the budget


def test_the_least_recently_used_is_dropped_for_what_is_new() -> None:
    store = Store(250)
    for seed in (1, 2):
        store.keep(text(100, seed=seed))
    store.keep(text(120))  # replaces the first
    store.keep(text(100, seed=4))
    assert store.edits == [Save(5, 1), Save(5, 2), Drop(1), Save(5, 3), Drop(2), Save(5, 4)]
    assert store.nbytes == 220


def test_what_is_asked_for_again_was_used() -> None:
    store = Store(250)
    for seed in (1, 2):
        store.keep(text(100, seed=seed))
    assert not store.keep(text(90))  # is there already
    store.keep(text(100, seed=3))
    assert store.keys == [1, 3]
    store.take_checkpoints(next(iter(store.saved)))
    store.keep(text(100, seed=4))
    assert store.keys == [1, 4]


def test_what_alone_exceeds_the_budget_costs_nobody_his_place() -> None:
    store = Store(250)
    store.keep(text(100))
    assert not store.keep(text(300, seed=2))
    assert store.keys == [1]


def test_a_first_prompt_of_unknown_size_that_turns_out_too_large_is_dropped_at_once() -> None:
    store = Store(99)
    assert store.keep(text(100))
    assert store.nbytes == 0
    assert not store.keep(text(100, seed=2))  # now the size is known
    assert store.edits == [Save(5, 1), Drop(1)]


def test_if_more_is_kept_than_was_expected_older_prompts_go_first() -> None:
    store = Store(250)
    store.keep(text(100))
    store.save(0, Slot(0, tokens=text(100, seed=2)), others=())
    store.confirm({2: 200}, expected=[2])
    assert (store.keys, store.nbytes) == ([2], 200)


def test_what_could_not_be_kept_is_forgotten() -> None:
    store = Store()
    store.save(0, Slot(0, tokens=text(100)), others=())
    point = store.reserve_checkpoint(30)
    assert point is not None
    store.confirm({}, expected=[1, point.key])
    assert (store.keys, store.holds(point), store.nbytes) == ([], False, 0)
    assert store.edits == [Save(0, 1), Drop(1), Drop(2)]


def test_what_was_discarded_before_it_was_kept_is_not_missed() -> None:
    store = Store()
    point = store.reserve_checkpoint(30)
    assert point is not None
    store.discard([point])
    store.confirm({point.key: 10}, expected=[point.key])
    assert (store.edits, store.nbytes) == ([Drop(1)], 0)


def test_not_more_prompts_are_saved_than_each_new_one_can_be_compared_with() -> None:
    store = Store(1 << 30)
    for request in range(135):
        store.keep([request + 100, *text(69, seed=2)])
    assert len(store.saved) <= 128


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_belongs_to_the_saved_prompt_until_somebody_takes_it() -> None:
    store = Store()
    point = store.point(30)
    store.keep(text(100), point)
    (saved,) = store.saved
    assert saved.checkpoints == [point]
    assert store.take_checkpoints(saved) == [point]
    assert (saved.checkpoints, store.holds(point)) == ([], True)
    assert store.nbytes == 110


def test_dropping_a_saved_prompt_drops_its_checkpoints() -> None:
    store = Store(140)
    store.keep(text(100), store.point(30))
    store.keep(text(100, seed=2))
    assert store.edits == [Save(5, 2), Drop(1), Drop(2), Save(5, 3)]
    assert store.nbytes == 100


def test_a_checkpoint_of_unknown_size_that_turns_out_too_large_is_dropped_at_once() -> None:
    store = Store(20)
    assert not store.holds(store.point(30, nbytes=30))
    assert (store.edits, store.nbytes) == ([Drop(1)], 0)


@pytest.mark.parametrize(("budget_bytes", "is_kept"), [(59, False), (60, True)])
def test_a_checkpoint_that_will_not_fit_is_not_taken(budget_bytes: int, *, is_kept: bool) -> None:
    store = Store(budget_bytes)
    first = store.point(30, nbytes=30)
    assert (store.reserve_checkpoint(60) is not None) == is_kept
    assert store.holds(first)
    assert store.edits == []


def test_saved_prompts_make_room_for_a_checkpoint_of_a_sequence_that_runs() -> None:
    store = Store(130)
    store.point(30, nbytes=20)
    store.keep(text(100))
    assert store.reserve_checkpoint(60) is not None
    assert store.edits == [Save(5, 2), Drop(2)]
