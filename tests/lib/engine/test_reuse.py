"""Where a prompt begins: which slot, and what is reused, copied, fetched or awaited."""

from dataclasses import replace

import pytest

from neuron_lib.engine.host_store import Saved
from neuron_lib.engine.remembered import Checkpoint
from neuron_lib.engine.reuse import Awaited, Placement, Reuse
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import Slot
from neuron_lib.engine.step_costs import StepCosts
from tests.fakes.prompts import FilledSlots, Idle, Live, forked, text


def rules(*, can_truncate: bool = True, shares_cells: bool = False, is_enabled: bool = True) -> Reuse:
    """Before anything was measured, so that copying is taken to be faster than computing."""
    costs = StepCosts(target_step_s=0.1)
    return Reuse(costs=costs, can_truncate=can_truncate, shares_cells=shares_cells, is_enabled=is_enabled)


def saved(key: int, tokens: list[int], *, cache_key: object = "", checkpoints: tuple[int, ...] = ()) -> Saved:
    """A prompt in host memory, with checkpoints at these lengths."""
    return Saved(
        key, tokens, (cache_key, ""), nbytes=len(tokens), checkpoints=[Checkpoint(9, at, 1) for at in checkpoints]
    )


def placed(
    slots: FilledSlots, prompt: list[int], *kept: Saved, reuse: Reuse | None = None, cache_key: str = ""
) -> Placement | Awaited | None:
    """What is decided for a prompt, when host memory has `kept`."""
    sequence = Sequence(request=99, prompt=prompt, max_tokens=9, cache_key=cache_key)
    return (reuse or rules()).find(sequence, slots, kept)


def found(
    slots: FilledSlots, prompt: list[int], *kept: Saved, reuse: Reuse | None = None, cache_key: str = ""
) -> tuple[int, int, str | None] | int | None:
    """Slot, tokens reused, and their source; or the length that is worth waiting for; or nothing."""
    match placed(slots, prompt, *kept, reuse=reuse, cache_key=cache_key):
        case Placement(slot, beginning, Slot() as source):
            return slot.seq_id, beginning.length, f"slot {source.seq_id}"
        case Placement(slot, beginning, Saved() as source):
            return slot.seq_id, beginning.length, f"key {source.key}"
        case Placement(slot, beginning):
            return slot.seq_id, beginning.length, None
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
    "less of it is copied": ((Idle(text(90)), None), forked(44, 60), (1, 44, "slot 0")),
    "from a live slot it is copied": ((Live(text(90), 90), None), forked(80, 99), (1, 80, "slot 0")),
    "a few common tokens are not worth it": ((Live(text(90), 90), None), forked(3, 99), (1, 0, None)),
    "some are": ((Live(text(90), 90), None), forked(4, 99), (1, 4, "slot 0")),
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
    "a long beginning does": ((Idle(text(200)), Idle(text(90, seed=3))), forked(60, 90), (1, 60, "slot 0")),
    "without another place it is taken after all": (
        (Idle(text(200)), Live(text(9, seed=3), 9)),
        forked(60, 90),
        (0, 60, None),
    ),
    "a prefix that is being computed is awaited": ((Live(text(90), 20), None), forked(80, 99), 80),
    "it is, however far it is": ((Live(text(90), 0), None), text(99), 90),
    "for sixteen tokens more": ((Live(text(90), 64), None), forked(80, 99), 80),
    "but not for fewer": ((Live(text(90), 65), None), forked(80, 99), (1, 65, "slot 0")),
    "and not if another has it already": ((Live(text(90), 20), Idle(text(85)), None), text(99), (1, 85, None)),
    "who decodes computes no prefix": ((Live(text(90), 89), None), text(99), (1, 89, "slot 0")),
    "all slots are taken": ((Live(text(90), 90), Live(text(90), 90)), text(50), None),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_prompt_begins_where_it_costs_least(name: str) -> None:
    contents, prompt, expected = PLACES[name]
    assert found(FilledSlots(*contents), prompt) == expected


@pytest.mark.parametrize("name", PLACES)
def test_nothing_is_reused_or_awaited_across_the_border_of_a_cache_key(name: str) -> None:
    contents, prompt, _ = PLACES[name]
    place = found(FilledSlots(*contents), prompt, saved(1, prompt), cache_key="another account")
    assert place is None or (isinstance(place, tuple) and place[1:] == (0, None))


class Account:
    """A cache key that can be compared with `==` and do nothing else: it has no hash and no order."""

    __hash__ = None  # type: ignore[assignment]  # that is the point

    def __init__(self, name: str, adapter: str) -> None:
        self.parts = name, adapter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self.parts == other.parts


def test_cache_keys_are_only_compared_by_equality() -> None:
    slots = FilledSlots(Idle(text(90), Account("a", "lora")), Idle(text(80), Account("a", "")))
    sequence = Sequence(request=1, prompt=text(120), max_tokens=9)
    sequence.cache_key = Account("a", "")  # type: ignore[assignment]  # stands for any key
    place = rules().find(sequence, slots, [saved(1, text(120), cache_key=Account("b", ""))])
    assert isinstance(place, Placement)
    assert (place.slot.seq_id, place.beginning.length) == (1, 80)


def test_a_piece_of_media_is_reused_by_the_same_media_only() -> None:
    picture, other_picture = list(range(-60, -20)), list(range(-160, -120))
    slots = FilledSlots(Idle([*text(50), *picture, *text(50)]))
    assert found(slots, [*text(50), *picture, 5, 6]) == (0, 90, None)
    assert found(slots, [*text(50), *other_picture, 5, 6]) == (0, 50, None)
    assert found(FilledSlots(Live([*picture, *text(9)], 10), None), [*picture, 5]) == 40
    assert found(FilledSlots(Live([*picture, *text(9)], 10), None), [*other_picture, 5]) == (1, 0, None)
    assert found(FilledSlots(None), [*picture, 5], saved(1, [*picture, 7])) == (0, 40, "key 1")


def test_what_is_cheaper_to_compute_is_not_copied_but_shared_cells_cost_nothing() -> None:
    for shares_cells, expected in ((False, (1, 0, None)), (True, (1, 80, "slot 0"))):
        reuse = rules(shares_cells=shares_cells)
        reuse.costs.prefill_token_s, reuse.costs.move_token_s = 0.001, 0.002
        assert found(FilledSlots(Live(text(90), 90), None), forked(80, 99), reuse=reuse) == expected


def test_without_a_cache_no_slot_offers_anything() -> None:
    slots = FilledSlots(Live(text(90), 20), Live(text(90), 80), None)
    assert found(slots, text(99), reuse=rules(is_enabled=False)) == (2, 0, None)


# ------------------------------------------------------------------------------------------------------- host memory


FETCHES = {
    "what no slot has is fetched": ((Idle(text(90, seed=3)),), (text(100),), text(120), (0, 100, "key 1")),
    "in part": ((None,), (text(100),), forked(80, 120), (0, 80, "key 1")),
    "the longest beginning": (
        (None,),
        (forked(70, 150, seed=3), forked(90, 150, seed=4), forked(80, 150, seed=5)),
        text(150),
        (0, 90, "key 2"),
    ),
    "what a slot has is not fetched": ((None, Idle(text(120))), (text(120),), text(140), (1, 120, None)),
    "nor what is hardly more": ((None, Idle(text(97))), (text(100),), text(140), (1, 97, None)),
    "what is being computed is awaited instead": ((None, Live(text(120), 20)), (text(60),), text(140), 120),
    "a few common tokens are not worth it": ((None,), (forked(3, 99),), text(99), (0, 0, None)),
}


@pytest.mark.parametrize("name", FETCHES)
def test_a_prompt_is_fetched_from_host_memory_where_slots_have_less(name: str) -> None:
    contents, kept, prompt, expected = FETCHES[name]
    prompts = [saved(key, tokens) for key, tokens in enumerate(kept, start=1)]
    assert found(FilledSlots(*contents), prompt, *prompts) == expected


def test_host_memory_that_is_dearer_than_computing_is_left_alone() -> None:
    reuse = rules()
    reuse.costs.prefill_token_s, reuse.costs.move_token_s = 0.001, 0.0009  # all hundred must come to have eighty
    assert found(FilledSlots(None), forked(80, 120), saved(1, text(100)), reuse=reuse) == (0, 0, None)


# ------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(("common", "reused"), [(50, 50), (49, 30), (30, 30), (29, 20), (20, 20), (19, 0)])
def test_a_memory_that_cannot_be_cut_is_reused_whole_or_from_its_last_checkpoint_in_the_common_part(
    common: int, reused: int
) -> None:
    slots = FilledSlots(Idle(text(50)))
    slots.all[0].checkpoints = [Checkpoint(key, at, 1) for key, at in ((1, 20), (2, 30))]
    for contents, kept in ((slots, ()), (FilledSlots(None), (saved(1, text(50), checkpoints=(20, 30)),))):
        place = placed(contents, forked(common, 60), *kept, reuse=rules(can_truncate=False))
        assert isinstance(place, Placement)
        assert place.beginning.length == reused
        at = place.beginning.checkpoint
        assert (at and at.length) == (None if reused in {0, 50} else reused)


@pytest.mark.parametrize(
    ("marks", "computed", "awaited"),
    [((100,), 20, 100), ((60, 100), 20, 100), ((100,), 110, None), ((130,), 20, None), ((), 20, None)],
)
def test_where_memory_cannot_be_cut_only_checkpoints_that_are_still_to_come_are_awaited(
    marks: tuple[int, ...], computed: int, awaited: int | None
) -> None:
    slots = FilledSlots(Live(text(150), computed, checkpoint_at=marks), None)
    place = placed(slots, forked(105, 150), reuse=rules(can_truncate=False))
    assert (place.length if isinstance(place, Awaited) else None) == awaited


# ------------------------------------------------------------------------------------------------------------- cells


CELLS = {
    "a slot that is taken over grows": ((Idle(text(90)),), (), 30),
    "a copy needs all cells": ((Live(text(90), 90), None), (), 120),
    "so does a saved prompt": ((None,), (text(100),), 120),
    "a saved prompt may be longer": ((None,), (text(200),), 200),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_placement_says_how_many_cells_are_taken_until_the_prompt_is_read(name: str) -> None:
    contents, kept, cells = CELLS[name]
    place = placed(FilledSlots(*contents), text(120), *(saved(1, tokens) for tokens in kept))
    assert isinstance(place, Placement)
    assert place.cells == cells


def test_a_shared_copy_takes_cells_only_for_what_is_new_and_a_checkpoint_is_applied_to_a_whole_copy() -> None:
    slots = FilledSlots(Live(text(150), 149, checkpoint_at=(70,)), None)
    slots.all[0].checkpoints = [Checkpoint(1, 70, 1)]
    for shares_cells, cells in ((True, 20), (False, 149)):
        place = placed(slots, forked(70, 90), reuse=replace(rules(can_truncate=False), shares_cells=shares_cells))
        assert isinstance(place, Placement)
        assert isinstance(place.source, Slot)
        assert (place.cells, place.beginning.copied_from(place.source)) == (cells, 149)
