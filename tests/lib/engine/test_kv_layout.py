import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.kv_layout import KvLayout, choose_layout

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
    chosen = choose_layout(
        wanted=wanted, seats=4, n_ctx=2048, kv_cells=kv_cells, bytes_per_cell=1000, free_bytes=free_bytes
    )
    assert chosen == plan


def test_what_a_seat_costs_beside_its_cells_is_set_aside_first() -> None:
    def plan(bytes_per_seat: int) -> KvLayout:
        return choose_layout(
            wanted="auto",
            seats=2,
            n_ctx=1024,
            kv_cells=0,
            bytes_per_cell=100,
            free_bytes=400_000,
            bytes_per_seat=bytes_per_seat,
        )

    assert plan(70_000) == KvLayout(unified=False, cells=2048)
    assert plan(100_000) == KvLayout(unified=True, cells=1536)


def test_a_model_without_cells_gets_streams() -> None:
    plan = choose_layout(wanted="auto", seats=3, n_ctx=512, kv_cells=0, bytes_per_cell=0, free_bytes=0)
    assert plan == KvLayout(unified=False, cells=1536)


@given(
    seats=st.integers(1, 64),
    n_ctx=st.integers(1, 1 << 17),
    bytes_per_cell=st.integers(1, 1 << 20),
    free_bytes=st.integers(0, 1 << 40),
    bytes_per_seat=st.integers(0, 1 << 24),
)
def test_what_nobody_asked_for_by_number_fits_or_is_the_smallest_pool(
    seats: int, n_ctx: int, bytes_per_cell: int, free_bytes: int, bytes_per_seat: int
) -> None:
    plan = choose_layout(
        wanted="auto",
        seats=seats,
        n_ctx=n_ctx,
        kv_cells=0,
        bytes_per_cell=bytes_per_cell,
        free_bytes=free_bytes,
        bytes_per_seat=bytes_per_seat,
    )
    assert 0 < plan.cells <= seats * n_ctx
    needed = plan.cells * bytes_per_cell + seats * bytes_per_seat
    assert needed <= free_bytes or (plan.unified and plan.cells <= 256)
    assert plan.unified or plan.cells == seats * n_ctx
