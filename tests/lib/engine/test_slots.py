import pytest

from neuron_lib.engine.slots import SlotPool


def test_the_lowest_free_slot_is_taken_first() -> None:
    pool = SlotPool(3)
    assert [pool.acquire(request) for request in (7, 8, 9)] == [0, 1, 2]
    pool.release(1)
    pool.release(0)
    assert pool.acquire(10) == 0
    assert pool.owners == {0: 10, 2: 9}


def test_a_full_pool_gives_nothing_away() -> None:
    pool = SlotPool(1)
    pool.acquire(1)
    assert not pool.has_free
    with pytest.raises(IndexError):
        pool.acquire(2)


def test_a_slot_without_an_owner_cannot_be_released() -> None:
    pool = SlotPool(1)
    with pytest.raises(KeyError):
        pool.release(0)


def test_vacated_slots_are_handed_over_exactly_once() -> None:
    pool = SlotPool(2)
    for request in (1, 2):
        pool.acquire(request)
    pool.release(1)
    pool.release(0)
    assert sorted(pool.take_vacated()) == [0, 1]
    assert pool.take_vacated() == ()
