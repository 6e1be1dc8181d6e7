import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.kv_layout import DeviceRoom, KvLayout, choose_layout, smaller_pool

GIB = 1 << 30


@pytest.mark.parametrize(
    ("wanted", "kv_cells", "free_bytes", "plan"),
    [
        ("auto", 0, GIB, KvLayout(unified=False, cells=8192)),
        ("auto", 0, 8192 * 1000 * 10 // 9 + 1000, KvLayout(unified=False, cells=8192)),
        ("auto", 0, 8192 * 1000, KvLayout(unified=True, cells=7168)),  # 0.9 of it, in whole steps of 256
        ("auto", 0, 1000, KvLayout(unified=True, cells=256)),
        ("auto", 8192, GIB, KvLayout(unified=False, cells=8192)),
        ("auto", 4096, GIB, KvLayout(unified=True, cells=4096)),
        ("per_sequence", 0, 1000, KvLayout(unified=False, cells=8192)),
        ("per_sequence", 4096, GIB, KvLayout(unified=False, cells=8192)),
        ("unified", 0, GIB, KvLayout(unified=True, cells=8192)),
        ("unified", 0, 3_000_000, KvLayout(unified=True, cells=2560)),
        ("unified", 100, GIB, KvLayout(unified=True, cells=100)),
        ("unified", 1 << 20, 1000, KvLayout(unified=True, cells=1 << 20)),
    ],
)
def test_the_layout_is_the_one_that_fits(wanted: str, kv_cells: int, free_bytes: int, plan: KvLayout) -> None:
    device = DeviceRoom(cell_bytes=1000, fixed_bytes=0, free_bytes=free_bytes)
    assert choose_layout(wanted=wanted, seats=4, n_ctx=2048, kv_cells=kv_cells, devices=[device]) == plan


def test_weights_and_buffers_are_set_aside_first() -> None:
    def plan(fixed_bytes: int) -> KvLayout:
        device = DeviceRoom(cell_bytes=100, fixed_bytes=fixed_bytes, free_bytes=400_000)
        return choose_layout(wanted="auto", seats=2, n_ctx=1024, kv_cells=0, devices=[device])

    assert plan(140_000) == KvLayout(unified=False, cells=2048)
    assert plan(200_000) == KvLayout(unified=True, cells=1792)
    assert plan(900_000) == KvLayout(unified=True, cells=256)


def test_the_device_with_the_least_room_decides() -> None:
    roomy, tight = (DeviceRoom(cell_bytes=100, fixed_bytes=0, free_bytes=free) for free in (1 << 30, 100_000))
    assert choose_layout(wanted="auto", seats=2, n_ctx=1024, kv_cells=0, devices=[roomy, tight]) == KvLayout(
        unified=True, cells=768
    )


def test_a_model_without_cells_gets_streams() -> None:
    device = DeviceRoom(cell_bytes=0, fixed_bytes=10, free_bytes=0)
    plan = choose_layout(wanted="auto", seats=3, n_ctx=512, kv_cells=0, devices=[device])
    assert plan == KvLayout(unified=False, cells=1536)


def test_two_sizes_say_what_a_cell_costs() -> None:
    room = DeviceRoom.from_two(smaller=(100, 1500), larger=(200, 2500), free_bytes=7)
    assert room == DeviceRoom(cell_bytes=10, fixed_bytes=500, free_bytes=7)
    same = DeviceRoom.from_two(smaller=(100, 1500), larger=(100, 1500), free_bytes=7)
    assert same == DeviceRoom(cell_bytes=0, fixed_bytes=1500, free_bytes=7)


def test_a_pool_that_takes_too_much_becomes_smaller_until_it_is_the_smallest() -> None:
    pool = KvLayout(unified=True, cells=1024)
    assert smaller_pool(pool, excess_cells=1) == KvLayout(unified=True, cells=768)
    assert smaller_pool(pool, excess_cells=5000) == KvLayout(unified=True, cells=256)
    assert smaller_pool(KvLayout(unified=True, cells=256), excess_cells=1) is None
    assert smaller_pool(KvLayout(unified=False, cells=1024), excess_cells=1) is None


@given(
    seats=st.integers(1, 64),
    n_ctx=st.integers(1, 1 << 17),
    cell_bytes=st.integers(1, 1 << 20),
    free_bytes=st.integers(0, 1 << 40),
    fixed_bytes=st.integers(0, 1 << 34),
)
def test_what_nobody_asked_for_by_number_fits_or_is_the_smallest_pool(
    seats: int, n_ctx: int, cell_bytes: int, free_bytes: int, fixed_bytes: int
) -> None:
    device = DeviceRoom(cell_bytes=cell_bytes, fixed_bytes=fixed_bytes, free_bytes=free_bytes)
    plan = choose_layout(wanted="auto", seats=seats, n_ctx=n_ctx, kv_cells=0, devices=[device])
    assert 0 < plan.cells <= seats * n_ctx
    assert plan.cells * cell_bytes + fixed_bytes <= free_bytes or (plan.unified and plan.cells <= 256)
    assert plan.unified or plan.cells == seats * n_ctx
