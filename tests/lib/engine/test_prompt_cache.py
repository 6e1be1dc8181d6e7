"""The policy of reuse: where a prompt begins, what goes to host memory, what is kept there."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.prompt_cache import Awaited, Placement, common_prefix
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Copy, Drop, Edit, Restore, Rewind, Save, Swap, Truncate
from tests.fakes.small_engine import SmallEngine


def text(length: int, *, seed: int = 1) -> list[int]:
    """A text that has nothing in common with one of another seed."""
    return [seed, *((seed * i + i * i) % 11 for i in range(1, length))]


def forked(at: int, length: int, *, seed: int = 2) -> list[int]:
    """Text 1 that goes on as another from `at` on."""
    return [*text(at), *(token + 20 for token in text(length - at, seed=seed))]


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40), st.integers(0, 50))
def test_the_common_prefix_is_found_without_looking_at_every_token(
    left: list[int], right: list[int], limit: int
) -> None:
    expected = 0
    while expected < min(len(left), len(right), limit) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(left, right, limit) == expected


# ----------------------------------------------------------------------------------------------------------- finding


@dataclass(frozen=True)
class Idle:
    """A slot that remembers these tokens."""

    tokens: list[int]
    cache_key: str = ""


@dataclass(frozen=True)
class Live:
    """A slot in which a sequence has computed so many tokens of its prompt."""

    tokens: list[int]
    computed: int
    cache_key: str = ""


def with_slots(*contents: Idle | Live | None, **fields: object) -> SmallEngine:
    """An engine whose slots hold these, the first one unused for longest; None is an empty slot."""
    engine = SmallEngine(seats=len(contents), n_ctx=1000, **fields)  # type: ignore[arg-type]  # as they come
    for slot, content in zip(engine.cache.slots, contents, strict=True):
        if content is None:
            continue
        length = content.computed if isinstance(content, Live) else len(content.tokens)
        engine.cells.extend(slot.seq_id, length)
        slot.sharing = (content.cache_key, "")
        if isinstance(content, Live):
            slot.sequence = Sequence(request=slot.seq_id, prompt=content.tokens, max_tokens=9)
            slot.sequence.seq_id, slot.sequence.computed = slot.seq_id, length
        else:
            slot.tokens, slot.released = content.tokens, slot.seq_id + 1
    return engine


def found(engine: SmallEngine, prompt: list[int], *, cache_key: str = "") -> tuple[int, int, int | None] | int | None:
    """Slot, tokens reused, and the slot they are copied from; or the length that is worth waiting for; or nothing."""
    place = engine.cache.find(Sequence(request=99, prompt=prompt, max_tokens=9, cache_key=cache_key))
    match place:
        case Placement(slot, beginning, source):
            assert source is None or not isinstance(source, int)
            return slot.seq_id, beginning.length, None if source is None else source.seq_id
        case Awaited(_, length):
            return length
        case None:
            return None


PLACES = {
    "nothing is remembered: the first empty slot": ((None, None), text(50), (0, 0, None)),
    "an empty slot before any that remembers": ((Idle(text(90)), None), text(50, seed=2), (1, 0, None)),
    "strangers only: the one unused for longest": (
        (Idle(text(90)), Idle(text(90, seed=3))),
        text(50, seed=2),
        (0, 0, None),
    ),
    "the next turn takes its slot over": ((None, Idle(text(90))), text(120), (1, 90, None)),
    "the same prompt leaves one token to compute": ((Idle(text(90)),), text(90), (0, 89, None)),
    "a shorter one too": ((Idle(text(90)),), text(80), (0, 79, None)),
    "most of a slot is taken over": ((Idle(text(90)), None), forked(45, 60), (0, 45, None)),
    "less of it is copied": ((Idle(text(90)), None), forked(44, 60), (1, 44, 0)),
    "from a live slot it is copied": ((Live(text(90), 90), None), forked(80, 99), (1, 80, 0)),
    "a few common tokens are not worth it": ((Live(text(90), 90), None), forked(3, 99), (1, 0, None)),
    "some are": ((Live(text(90), 90), None), forked(4, 99), (1, 4, 0)),
    "what is common with the slot itself counts": (
        (Idle(text(90)), Idle(forked(41, 99, seed=3))),
        forked(44, 60),
        (1, 41, None),  # 3 more would have to be copied
    ),
    "the longest of several": ((Idle(text(40)), Idle(text(90)), Idle(text(60))), text(120), (1, 90, None)),
    "a few common tokens do not save a slot its turn": (
        (Idle(forked(3, 90, seed=3)), Idle(forked(3, 90, seed=4))),
        forked(3, 90),
        (0, 3, None),
    ),
    "a long beginning does": ((Idle(text(200)), Idle(text(90, seed=3))), forked(60, 90), (1, 60, 0)),
    "without another place it is taken after all": (
        (Idle(text(200)), Live(text(9, seed=3), 9)),
        forked(60, 90),
        (0, 60, None),
    ),
    "a prefix that is being computed is awaited": ((Live(text(90), 20), None), forked(80, 99), 80),
    "it is, however far it is": ((Live(text(90), 0), None), text(99), 90),
    "but not for a few tokens more": ((Live(text(90), 70), None), forked(80, 99), (1, 70, 0)),
    "and not if another has it already": ((Live(text(90), 20), Idle(text(85)), None), text(99), (1, 85, None)),
    "who decodes computes no prefix": ((Live(text(90), 89), None), text(99), (1, 89, 0)),
    "all slots are taken": ((Live(text(90), 90), Live(text(90), 90)), text(50), None),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_prompt_begins_where_it_costs_least(name: str) -> None:
    contents, prompt, expected = PLACES[name]
    assert found(with_slots(*contents), prompt) == expected


@pytest.mark.parametrize("name", PLACES)
def test_nothing_is_reused_or_awaited_across_the_border_of_a_cache_key(name: str) -> None:
    contents, prompt, _ = PLACES[name]
    place = found(with_slots(*contents), prompt, cache_key="another account")
    assert place is None or (isinstance(place, tuple) and place[1:] == (0, None))


def test_what_is_cheaper_to_compute_is_not_copied_but_shared_cells_cost_nothing() -> None:
    contents = (Live(text(90), 90), None)
    for pool, expected in ((None, (1, 0, None)), (1000, (1, 80, 0))):
        engine = with_slots(*contents, pool=pool)
        engine.costs.prefill_token_s, engine.costs.move_token_s = 0.001, 0.002
        assert found(engine, forked(80, 99)) == expected


def test_a_slot_that_was_emptied_comes_first_however_lately_it_was_used() -> None:
    engine = with_slots(Idle(text(90)), Idle(text(90, seed=3)))
    engine.cache.evict(engine.cache.slots[1])
    assert found(engine, text(50, seed=2)) == (1, 0, None)


def test_without_a_cache_no_slot_offers_anything() -> None:
    assert found(with_slots(Live(text(90), 20), Live(text(90), 80), None, is_enabled=False), text(99)) == (2, 0, None)


# --------------------------------------------------------------------------------------------------------- gathering


def live(length: int) -> Live:
    """A sequence that has computed all but one of so many tokens."""
    return Live(text(length + 1), length)


GATHERINGS = {
    "one piece already": ((live(9), live(9), Idle(text(5))), ()),
    "nobody is seated": ((Idle(text(5)), None), ()),
    "the shorter one moves": ((live(90), None, live(10)), (Swap(2, 1),)),
    "or the other": ((live(10), None, live(90)), (Swap(0, 1),)),
    "round an idle prompt, if that is less to move": ((live(30), Idle(text(90)), live(30), None), (Swap(0, 3),)),
    "over it, if not": ((live(30), Idle(text(9)), live(90)), (Swap(0, 1),)),
    "several holes": ((live(9), None, live(9), None, live(9)), (Swap(4, 1),)),
}


@pytest.mark.parametrize("name", GATHERINGS)
def test_live_sequences_are_brought_together_with_the_fewest_tokens_moved(name: str) -> None:
    contents, swaps = GATHERINGS[name]
    engine = with_slots(*contents)
    assert engine.cache.is_gathered == (not swaps)
    engine.cache.gather()
    assert set(engine.cache.take_edits()) == set(swaps)
    assert engine.cache.is_gathered
    for slot in engine.cache.slots:
        assert slot.length == engine.cells.length(slot.seq_id)
        assert slot.sequence is None or slot.sequence.seq_id == slot.seq_id
    assert sorted(slot.seq_id for slot in engine.cache.slots) == list(range(len(contents)))


def test_what_is_dearer_than_the_gap_stays_where_it_is() -> None:
    engine = with_slots(live(90), None, live(90))
    engine.costs.move_token_s = 1.0
    engine.costs.observe(decoded=2, prefilled=0, duration_s=0.02)
    engine.cache.gather()
    assert engine.cache.take_edits() == ()


def test_in_a_pool_everybody_is_together() -> None:
    assert with_slots(live(90), None, live(90), pool=1000).cache.is_gathered


# ------------------------------------------------------------------------------------------------------- host memory


def edits(engine: SmallEngine, *kinds: type[Edit]) -> list[Edit]:
    """Those of these kinds, of all plans."""
    return [edit for plan in engine.plans for edit in plan.edits if isinstance(edit, kinds)]


def one_slot(host_budget_bytes: int = 1000, *, can_truncate: bool = True) -> SmallEngine:
    """Every new prompt displaces the one before; a byte of host memory holds a token."""
    return SmallEngine(seats=1, host_budget_bytes=host_budget_bytes, can_truncate=can_truncate)


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


def test_of_saved_prompts_the_one_with_the_longest_beginning_comes_back() -> None:
    engine = one_slot(host_budget_bytes=10_000)
    for request, at in enumerate((70, 90, 80)):
        engine.answer(request, forked(at, 150, seed=request + 3), max_tokens=1)
        engine.answer(10 + request, text(70, seed=2), max_tokens=1)
    assert engine.answer(20, text(150), max_tokens=1).cached_tokens == 90


@pytest.mark.parametrize(("length", "saves"), [(63, 0), (64, 1)])
def test_a_short_prompt_that_is_evicted_is_not_saved(length: int, saves: int) -> None:
    engine = with_slots(Idle(text(length)), host_budget_bytes=1000)
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
    engine = with_slots(Idle(text(100)), Idle(text(150)), Idle(text(100), "other"), host_budget_bytes=1000)
    for slot in reversed(engine.cache.slots):
        engine.cache.evict(slot)
    assert [e for e in engine.cache.take_edits() if isinstance(e, Save)] == [Save(2, 1), Save(1, 2)]
    again = with_slots(Idle(text(100)), Idle(text(150)), host_budget_bytes=1000)
    again.cache.evict(again.cache.slots[0])
    assert again.cache.take_edits() == (Truncate(0, 0),)


def test_what_is_saved_is_saved_once_and_its_beginnings_are_dropped() -> None:
    engine = with_slots(Idle(text(100)), None, host_budget_bytes=1000)
    cache = engine.cache
    first, second = cache.slots
    cache.evict(first)
    for tokens in (text(150), text(120), text(150)):
        engine.cells.extend(1, len(tokens))
        second.tokens = tokens
        cache.evict(second)
    assert [e for e in cache.take_edits() if not isinstance(e, Truncate)] == [Save(0, 1), Drop(1), Save(1, 2)]


def test_the_least_recently_used_is_dropped_for_what_is_new() -> None:
    engine = one_slot(host_budget_bytes=250)
    for request in (1, 2):
        engine.answer(request, text(100, seed=request), max_tokens=1)
    engine.answer(3, text(120), max_tokens=1)  # request 2 is saved; 1 is used
    engine.answer(4, text(100, seed=4), max_tokens=1)  # 3 is saved, 1 is its beginning
    engine.answer(5, text(100, seed=5), max_tokens=1)  # 4 is saved, and 2 was used before 3
    assert edits(engine, Save, Drop) == [Save(0, 1), Save(0, 2), Drop(1), Save(0, 3), Drop(2), Save(0, 4)]
    assert engine.cache.host_bytes == 220
    assert set(engine.memory.kept) == {3, 4}


def test_what_came_back_from_host_memory_was_used() -> None:
    engine = one_slot(host_budget_bytes=250)
    for request in (1, 2):
        engine.answer(request, text(100, seed=request), max_tokens=1)
    engine.answer(3, forked(80, 90), max_tokens=1)  # 2 is saved, 1 comes back in part
    engine.answer(4, text(100, seed=4), max_tokens=1)  # 3 is saved, there is room for one of the others
    assert edits(engine, Drop) == [Drop(2)]


def test_what_alone_exceeds_the_budget_costs_nobody_his_place() -> None:
    engine = one_slot(host_budget_bytes=250)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(300, seed=2), max_tokens=1)
    engine.answer(3, text(100, seed=3), max_tokens=1)
    assert set(engine.memory.kept) == {1}


def test_a_first_save_of_unknown_size_that_turns_out_too_large_is_dropped_at_once() -> None:
    engine = one_slot(host_budget_bytes=99)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    assert engine.cache.host_bytes == 0
    engine.answer(3, text(100, seed=3), max_tokens=1)
    assert not engine.memory.kept


def test_what_could_not_be_saved_is_computed_again() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    engine.submit(2, text(100, seed=2), max_tokens=1)
    engine.step(fault="full")
    engine.finish()
    assert engine.cache.host_bytes == 0
    assert engine.answer(3, text(120), max_tokens=1).cached_tokens == 0


def test_saved_prompts_stay_behind_the_border_of_their_cache_key() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1, cache_key="mine")
    engine.answer(2, text(100, seed=2), max_tokens=1, cache_key="mine")
    assert engine.answer(3, text(120), max_tokens=1, cache_key="yours").cached_tokens == 0
    assert engine.answer(4, text(120), max_tokens=1, cache_key="mine").cached_tokens == 100


def test_a_prompt_in_a_slot_is_not_fetched_from_host_memory() -> None:
    engine = SmallEngine(seats=2, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1)
    for request in (2, 3):
        engine.answer(request, text(100, seed=request), max_tokens=1)
    engine.answer(4, text(120), max_tokens=1)
    assert engine.answer(5, text(140), max_tokens=1).cached_tokens == 120
    assert len(edits(engine, Restore)) == 1


def test_host_memory_that_is_dearer_than_computing_is_left_alone() -> None:
    engine = one_slot()
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    engine.costs.prefill_token_s, engine.costs.move_token_s = 0.001, 0.0009  # all hundred must come to have eighty
    assert engine.answer(3, forked(80, 120), max_tokens=1).cached_tokens == 0


def test_not_more_prompts_are_saved_than_each_new_one_can_be_compared_with() -> None:
    engine = one_slot(host_budget_bytes=1 << 30)
    for request in range(135):
        engine.answer(request, [request + 100, *text(69, seed=2)], max_tokens=1)
    assert len(engine.memory.kept) <= 128


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
    assert engine.cache.host_bytes == 0


def test_dropping_a_saved_sequence_drops_its_checkpoints() -> None:
    engine = uncuttable(seats=1, host_budget_bytes=240)
    engine.answer(1, text(100), max_tokens=1, checkpoint_at=(30,))
    engine.answer(2, text(100, seed=2), max_tokens=1)
    engine.answer(3, text(120, seed=3), max_tokens=1)
    assert edits(engine, Save, Drop) == [Save(0, 2), Save(0, 3)]
    engine.answer(4, text(100, seed=4), max_tokens=1)
    assert edits(engine, Drop) == [Drop(1), Drop(2)]
    assert engine.cache.host_bytes == 220


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
    assert engine.cache.host_bytes == 0
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
    assert engine.cache.host_bytes == 0
    assert engine.answer(2, forked(40, 60)).cached_tokens == 0
    assert engine.is_alone(2)
