"""A daemon that loads and unloads models all day has at its end what it had at noon."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import sabotaged
from tests.faults.growth import WARM_UP_CYCLES, Growth, cycle
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import TINY, Rig

pytestmark = [pytest.mark.faults, pytest.mark.system]

CYCLES = 50


def growth_of(rig: Rig, *, cycles: int) -> Growth:
    for _ in range(WARM_UP_CYCLES):
        cycle(rig, TINY)
    rig.settle()
    growth = Growth()
    for _ in range(cycles):
        cycle(rig, TINY)
        growth.read(rig.pid)
    return growth


def test_fifty_loads_chats_and_unloads_leave_no_memory_descriptor_thread_or_process(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path)) as rig:
        growth_of(rig, cycles=CYCLES).check()
        check_invariants(rig)


@pytest.mark.parametrize(("sabotage", "report"), [(sabotaged.leak_memory, "I7:"), (sabotaged.leak_descriptors, "I5:")])
def test_a_leak_is_reported(tmp_path: Path, sabotage: Callable[[], None], report: str) -> None:
    with running_rig(tmp_path, config(tmp_path), command=sabotaged.command(sabotage)) as rig:
        growth = growth_of(rig, cycles=10)
        with pytest.raises(AssertionError, match=f"^{report}"):
            growth.check()
