"""Prompts that begin alike, through the scheduler: what is reused, saved and brought back, and what the memory is told.

`test_reuse`, `test_slots` and `test_host_store` have the rules of each part.
"""

import pytest

from neuron_lib.engine.step import Copy, Drop, Edit, Restore, Rewind, Save, Truncate
from tests.fakes.prompts import forked, text
from tests.fakes.small_engine import SmallEngine

# ------------------------------------------------------------------------------------------------------- host memory


def edits(engine: SmallEngine, *kinds: type[Edit]) -> list[Edit]:
    """Those of these kinds, of all plans."""
    return [edit for plan in engine.plans for edit in plan.edits if isinstance(edit, kinds)]


def one_slot(host_budget_bytes: int = 1000, *, can_truncate: bool = True) -> SmallEngine:
    """Every new prompt displaces the one before; a byte of host memory holds a token."""
    return SmallEngine(seats=1, host_budget_bytes=host_budget_bytes, can_truncate=can_truncate)


def idle(*contents: list[int]) -> SmallEngine:
    """An engine whose slots remember these tokens."""
    engine = SmallEngine(seats=len(contents), host_budget_bytes=1000)
    for slot, tokens in zip(engine.cache.slots, contents, strict=True):
        engine.cells.extend(slot.seq_id, len(tokens))
        slot.tokens = tokens
    return engine


def test_what_loses_its_place_comes_back_from_host_memory() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    assert engine.answer(3, text(120), max_tokens=1).cached_tokens == 100
    assert edits(engine, Save, Restore) == [Save(0, 1), Save(0, 2), Restore(1, 0, 100)]


def test_a_saved_prompt_can_come_back_again_and_in_part() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    for request in (2, 3):
        engine.answer(10 + request, text(70, seed=2), max_tokens=1)
        assert engine.answer(request, forked(80, 120, seed=request), max_tokens=1).cached_tokens == 80


@pytest.mark.parametrize(("length", "saves"), [(63, 0), (64, 1)])
def test_a_short_prompt_that_is_evicted_is_not_saved(length: int, saves: int) -> None:
    engine = idle(text(length))
    engine.cache.evict(engine.cache.slots[0])
    assert [type(edit) for edit in engine.cache.take_edits()] == [Save] * saves + [Truncate]


@pytest.mark.parametrize(("length", "cached"), [(63, 0), (64, 64)])
def test_what_is_quickly_computed_again_is_not_saved(length: int, cached: int) -> None:
    engine = one_slot()
    engine.answer(1, text(length), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    assert engine.answer(3, text(99), max_tokens=1).cached_tokens == cached


def test_what_is_cut_off_a_slot_is_saved_first_unless_it_is_short() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, forked(80, 90), max_tokens=1)
    assert edits(engine, Save) == []
    engine.answer(3, text(200), max_tokens=1)
    engine.answer(4, forked(130, 140), max_tokens=1)
    assert edits(engine, Save) == [Save(0, 1)]
    assert engine.answer(5, text(220), max_tokens=1).cached_tokens == 200


def test_the_beginning_of_something_that_stays_is_not_saved() -> None:
    engine = idle(text(100), text(150), text(100))
    engine.cache.slots[2].cache_key = "other"
    for slot in reversed(engine.cache.slots):
        engine.cache.evict(slot)
    assert [e for e in engine.cache.take_edits() if isinstance(e, Save)] == [Save(2, 1), Save(1, 2)]
    again = idle(text(100), text(150))
    again.cache.evict(again.cache.slots[0])
    assert again.cache.take_edits() == (Truncate(0, 0),)


def test_what_is_brought_back_is_not_dropped_for_what_has_to_leave_the_slot() -> None:
    engine = one_slot(host_budget_bytes=250)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(160, seed=2), max_tokens=1)
    assert engine.answer(3, text(120), max_tokens=1).cached_tokens == 100
    assert edits(engine, Save, Restore, Drop) == [Save(0, 1), Restore(1, 0, 100)]


def test_what_could_not_be_saved_is_computed_again() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    engine.submit(2, text(100, seed=2), max_tokens=1)
    engine.step(fault="full")
    engine.finish()
    assert engine.cache.store.nbytes == 0
    assert engine.answer(3, text(120), max_tokens=1).cached_tokens == 0


def test_saved_prompts_stay_behind_the_border_of_their_cache_key() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1, cache_key="mine")
    engine.answer(2, text(100, seed=2), max_tokens=1, cache_key="mine")
    assert engine.answer(3, text(120), max_tokens=1, cache_key="yours").cached_tokens == 0
    assert engine.answer(4, text(120), max_tokens=1, cache_key="mine").cached_tokens == 100


def test_a_prompt_with_media_comes_back_for_the_same_media_only() -> None:
    engine = one_slot()
    picture, other_picture = list(range(-60, -10)), list(range(-160, -110))
    engine.answer(1, [*text(50), *picture, *text(50)], max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    assert engine.answer(3, [*text(50), *other_picture, 5], max_tokens=1).cached_tokens == 50
    engine.answer(4, text(100, seed=2), max_tokens=1)
    assert engine.answer(5, [*text(50), *picture, 5], max_tokens=1).cached_tokens == 100
    assert all(engine.is_alone(request) for request in range(1, 6))


# ------------------------------------------------------------------------------------------------------- checkpoints


def uncuttable(**fields: object) -> SmallEngine:
    """A memory that can go back only to where a checkpoint was taken."""
    return SmallEngine(can_truncate=False, n_batch=64, **fields)  # type: ignore[arg-type]  # as they come


def test_a_memory_that_cannot_be_cut_goes_on_where_it_is() -> None:
    engine = uncuttable()
    first = engine.submit(1, text(50), max_tokens=5)
    engine.finish()
    assert engine.answer(2, [*first.tokens, 7]).cached_tokens == 54
    assert engine.is_alone(2)


def test_without_a_checkpoint_it_is_read_again_from_the_beginning() -> None:
    engine = uncuttable(host_budget_bytes=1000)
    engine.answer(1, text(50), max_tokens=5)
    assert engine.answer(2, forked(49, 60)).cached_tokens == 0
    assert engine.is_alone(2)


@pytest.mark.parametrize(("common", "cached"), [(29, 20), (30, 30), (45, 30), (19, 0)])
def test_with_checkpoints_it_goes_back_to_the_last_one_in_the_common_part(common: int, cached: int) -> None:
    engine = uncuttable(host_budget_bytes=1000)
    engine.answer(1, text(50), max_tokens=5, checkpoint_at=(20, 30))
    assert [len(chunk.tokens) for plan in engine.plans[:3] for chunk in plan.chunks] == [20, 10, 20]
    assert engine.answer(2, forked(common, 60)).cached_tokens == cached
    assert engine.is_alone(2)


def test_checkpoints_behind_the_place_it_went_back_to_are_dropped_and_the_others_stay() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(50), max_tokens=1, checkpoint_at=(20, 30, 40))
    engine.answer(2, forked(35, 60), max_tokens=1)
    assert edits(engine, Rewind, Drop) == [Rewind(0, 2, 30), Drop(3)]
    assert engine.answer(3, forked(25, 60, seed=3), max_tokens=1).cached_tokens == 20


def test_a_checkpoint_serves_many_who_copy_it() -> None:
    engine = uncuttable(seats=3, host_budget_bytes=1000)
    engine.answer(1, text(150), max_tokens=1, checkpoint_at=(70,))
    for request in (2, 3):
        engine.submit(request, forked(70, 90, seed=request), max_tokens=3)
    engine.finish()
    assert [engine.done(request).cached_tokens for request in (2, 3)] == [70, 70]
    assert edits(engine, Copy, Rewind) == [Copy(0, 1, 150), Rewind(1, 1, 70), Copy(0, 2, 150), Rewind(2, 1, 70)]
    assert all(engine.is_alone(request) for request in (1, 2, 3))


@pytest.mark.parametrize("host_budget_bytes", [0, 1000])
def test_who_waits_for_a_checkpoint_finds_it_also_where_none_can_be_kept(host_budget_bytes: int) -> None:
    engine = uncuttable(host_budget_bytes=host_budget_bytes)
    engine.submit(1, text(150), checkpoint_at=(100,))
    engine.submit(2, forked(120, 150), checkpoint_at=(100,))
    engine.finish()
    assert engine.computed == 150 + 50 + 2 * 9
    assert engine.done(2).cached_tokens == 100


def test_of_many_checkpoints_the_first_and_the_last_three_are_kept() -> None:
    engine = uncuttable(host_budget_bytes=10_000)
    engine.answer(1, text(100), max_tokens=1, checkpoint_at=(10, 20, 30, 40, 50, 60))
    assert [point.length for point in engine.cache.slots[0].checkpoints] == [10, 40, 50, 60]
    assert set(engine.memory.kept) == {1, 4, 5, 6}


def test_checkpoints_go_with_their_sequence_to_host_memory_and_back() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1, checkpoint_at=(30, 80))
    engine.answer(2, text(90, seed=2), max_tokens=1)
    assert edits(engine, Drop) == []
    assert engine.answer(3, forked(85, 120), max_tokens=1).cached_tokens == 80
    assert [point.length for point in engine.cache.slots[0].checkpoints] == [30, 80]


def test_of_a_sequence_that_comes_back_in_part_the_checkpoints_behind_are_dropped() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1, checkpoint_at=(30, 80))
    engine.answer(2, text(90, seed=2), max_tokens=1)
    assert engine.answer(3, forked(50, 120), max_tokens=1).cached_tokens == 30
    assert edits(engine, Drop) == [Drop(2)]
    assert [point.length for point in engine.cache.slots[0].checkpoints] == [30]


def test_what_is_needed_now_is_not_dropped_as_the_beginning_of_what_is_saved() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    engine.answer(3, text(150), max_tokens=1)
    assert engine.answer(4, forked(100, 130), max_tokens=1).cached_tokens == 100
    assert edits(engine, Restore) == [Restore(1, 0, 100)] * 2


def test_checkpoints_go_with_what_is_not_saved() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(50), max_tokens=1, checkpoint_at=(30,))
    engine.answer(2, text(90, seed=2), max_tokens=1)
    assert edits(engine, Save, Drop) == [Drop(1)]
    assert engine.cache.store.nbytes == 0


def test_a_slot_that_is_emptied_gives_its_checkpoints_up() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=1000)
    engine.answer(1, text(50), max_tokens=1, checkpoint_at=(30,))
    engine.cache.evict(engine.cache.slots[0])
    assert engine.cache.take_edits() == (Drop(1), Truncate(0, 0))
    assert engine.cache.store.nbytes == 0


@pytest.mark.parametrize("fields", [{"host_budget_bytes": 0}, {"host_budget_bytes": 1000, "is_enabled": False}])
def test_without_a_budget_or_a_cache_no_checkpoint_is_taken(fields: dict[str, int]) -> None:
    engine = uncuttable(**fields)
    engine.answer(1, text(50), max_tokens=1, checkpoint_at=(30,))
    assert not engine.memory.kept
    assert engine.answer(2, forked(40, 60)).cached_tokens == 0


def test_a_checkpoint_of_unknown_size_that_turns_out_too_large_is_dropped_at_once() -> None:
    engine = uncuttable(host_budget_bytes=20)
    engine.answer(1, text(100), max_tokens=2, checkpoint_at=(30,))
    assert edits(engine, Drop) == [Drop(1)]
    assert engine.cache.store.nbytes == 0
    assert engine.cache.slots[0].checkpoints == []


def test_a_checkpoint_that_will_not_fit_is_not_taken() -> None:
    engine = uncuttable(host_budget_bytes=50)
    engine.answer(1, text(100), max_tokens=2, checkpoint_at=(30, 60))
    assert set(engine.memory.kept) == {1}
    assert edits(engine, Drop) == []
    assert engine.answer(2, forked(70, 100)).cached_tokens == 30


def test_a_checkpoint_that_could_not_be_kept_is_not_relied_on() -> None:
    engine = uncuttable(host_budget_bytes=1000)
    engine.submit(1, text(50), max_tokens=1, checkpoint_at=(30,))
    engine.step(fault="full")
    engine.finish()
    assert engine.cache.store.nbytes == 0
    assert engine.answer(2, forked(40, 60)).cached_tokens == 0
    assert engine.is_alone(2)
