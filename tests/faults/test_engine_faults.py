"""An engine that goes wrong in any way, at any moment of its life, costs its own requests at most."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.engine_faults import EngineFault, inflict
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import REAL, TINY, Rig
from tests.system.daemon import eventually

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

EVERY_FAULT = pytest.mark.parametrize("fault", [fault for fault in EngineFault if fault is not EngineFault.STOP])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("engines")
    with running_rig(folder, config(folder, REAL, TINY)) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """Each test gets an engine with no deaths behind it."""
    shared.load_anew(REAL)
    return shared


def bring_back(rig: Rig) -> None:
    eventually(lambda: REAL not in rig.models())
    assert rig.load(REAL).is_success


@EVERY_FAULT
def test_an_idle_engine_that_goes_wrong_costs_nobody_anything(rig: Rig, fault: EngineFault) -> None:
    inflict(fault, rig.engine_of(REAL))
    assert rig.answer(TINY).ending is Ending.COMPLETE
    bring_back(rig)
    check_invariants(rig)


@EVERY_FAULT
def test_an_engine_that_goes_wrong_in_mid_reply_ends_that_reply_with_an_error_event(
    rig: Rig, fault: EngineFault
) -> None:
    reply, other = rig.decoding(REAL), rig.ask(TINY, max_tokens=200)
    inflict(fault, rig.engine_of(REAL))
    assert reply.outcome().ending is Ending.ERROR_EVENT
    assert other.outcome().ending is Ending.COMPLETE
    bring_back(rig)
    check_invariants(rig)


@EVERY_FAULT
def test_an_engine_that_goes_wrong_while_it_reads_a_prompt_harms_nobody_else(rig: Rig, fault: EngineFault) -> None:
    prompt, other = rig.prefilling(REAL), rig.ask(TINY, max_tokens=200)
    inflict(fault, rig.engine_of(REAL))
    assert prompt.outcome().ending in {Ending.ERROR_EVENT, Ending.REFUSED}
    assert other.outcome().ending is Ending.COMPLETE
    bring_back(rig)
    check_invariants(rig)


@EVERY_FAULT
def test_an_engine_that_goes_wrong_while_it_loads_fails_that_load(rig: Rig, fault: EngineFault) -> None:
    assert rig.unload(REAL).is_success
    others = set(rig.daemon.engine_pids())
    with ThreadPoolExecutor(1) as threads:
        load = threads.submit(rig.load, REAL)
        (engine,) = eventually(lambda: set(rig.daemon.engine_pids()) - others)
        inflict(fault, engine)
        assert load.result().is_error
    assert REAL not in rig.models()
    assert rig.load(REAL).is_success
    check_invariants(rig)
