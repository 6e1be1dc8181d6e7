"""What is in which slot, in three accounts at once, and how live sequences are brought together."""

import pytest

from neuron_lib.engine.remembered import Checkpoint
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Copy, Restore, Rewind, Swap, Truncate
from neuron_lib.engine.step_costs import StepCosts
from tests.fakes.prompts import FilledSlots, Idle, Live, text


def test_idle_slots_are_empty_ones_first_then_the_longest_unused() -> None:
    slots = FilledSlots(Idle(text(9)), Live(text(9), 5), None, Idle(text(9)), None)
    for seq_id in (3, 0):
        slots.occupy(Sequence(request=seq_id, prompt=text(9), max_tokens=1), slots.at(seq_id), reused=9)
        sequence = slots.at(seq_id).sequence
        assert sequence is not None
        slots.release(sequence)
    assert [slot.seq_id for slot in slots.idle] == [2, 4, 3, 0]


def test_a_slot_that_was_emptied_comes_first_however_lately_it_was_used() -> None:
    slots = FilledSlots(Idle(text(90)), Idle(text(90, seed=3)))
    slots.all[1].tokens = []
    assert slots.idle == [slots.all[1], slots.all[0]]


def test_a_sequence_that_leaves_its_slot_leaves_what_it_has_computed() -> None:
    slots = FilledSlots(Live(text(9), 5, "mine"))
    slot, sequence = slots.all[0], slots.all[0].sequence
    assert sequence is not None
    assert (slot.content, slot.length) == (text(9), 5)
    slots.cells.extend(0, 2)  # guesses that were wrong
    assert slots.release(sequence) is slot
    assert (slot.content, slot.length, slot.cache_key) == (text(9)[:5], 5, sequence.sharing)
    assert (slot.sequence, sequence.seq_id) == (None, None)
    assert slots.edits == [Truncate(0, 5)]
    assert slots.cells.length(0) == 5


def test_every_change_is_made_to_the_cells_and_asked_of_the_native_memory() -> None:
    slots = FilledSlots(Idle(text(90)), None, None)
    first, second, third = slots.all
    slots.copy(first, second, 60)
    slots.restore(7, third, 40)
    slots.shorten(1, 50, checkpoint=Checkpoint(key=8, length=50, nbytes=0))
    slots.shorten(0, 30)
    assert slots.edits == [Copy(0, 1, 60), Restore(7, 2, 40), Rewind(1, 8, 50), Truncate(0, 30)]
    assert [slots.cells.length(seq_id) for seq_id in range(3)] == [30, 50, 40]


@pytest.mark.parametrize("length", [90, 91])
def test_what_is_short_enough_is_not_shortened(length: int) -> None:
    slots = FilledSlots(Idle(text(90)))
    slots.shorten(0, length)
    assert slots.edits == []


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
    slots = FilledSlots(*contents)
    assert slots.are_gathered == (not swaps)
    slots.gather(StepCosts(target_step_s=0.1))
    assert set(slots.edits) == set(swaps)
    assert slots.are_gathered
    for slot in slots.all:
        assert slots.at(slot.seq_id) is slot
        assert slot.length == slots.cells.length(slot.seq_id)
        assert slot.sequence is None or slot.sequence.seq_id == slot.seq_id
    assert sorted(slot.seq_id for slot in slots.all) == list(range(len(contents)))


def test_what_is_dearer_than_the_gap_stays_where_it_is() -> None:
    slots, costs = FilledSlots(live(90), None, live(90)), StepCosts(target_step_s=0.1)
    costs.move_token_s = 1.0
    costs.observe(decoded=2, prefilled=0, duration_s=0.02)
    slots.gather(costs)
    assert slots.edits == []


def test_in_a_pool_everybody_is_together() -> None:
    assert FilledSlots(live(90), None, live(90), pool=1000).are_gathered
