"""An engine that goes wrong in any way, at any moment of its life, costs its own requests at most."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.engine_faults import EngineFault, inflict
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import REAL, REAL_TOO, TINY, TINY_TOO, Rig
from tests.patience import slowness
from tests.system.daemon import eventually

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

TRIED_AGAIN = "engine died, the request is tried once more"
SUDDEN = pytest.mark.parametrize("fault", [fault for fault in EngineFault if fault is not EngineFault.STOP])


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


def strike(rig: Rig, fault: EngineFault) -> int:
    """Do it to the engine that serves the real model; returns its process id."""
    engine = rig.engine_of(REAL)
    inflict(fault, engine)
    return engine


def check_recovered(rig: Rig, dead: int, fault: EngineFault) -> None:
    """Once, and from that."""
    rig.wait_recovered(REAL, dead=dead)
    load = rig.load_of(REAL)
    assert load["engine_restarts"] == 1
    assert fault.epitaph in load["last_engine_death"]
    check_invariants(rig)


# --------------------------------------------------------------------------------------------------------- one fault


@SUDDEN
def test_a_model_whose_idle_engine_goes_wrong_comes_back_by_itself(rig: Rig, fault: EngineFault) -> None:
    dead = strike(rig, fault)
    assert rig.answer(TINY).ending is Ending.COMPLETE
    check_recovered(rig, dead, fault)


@SUDDEN
def test_an_engine_that_goes_wrong_in_mid_reply_ends_that_reply_with_an_error_event(
    rig: Rig, fault: EngineFault
) -> None:
    reply, other = rig.decoding(REAL), rig.ask(TINY, max_tokens=200)
    dead = strike(rig, fault)
    assert reply.outcome().ending is Ending.ERROR_EVENT
    assert other.outcome().ending is Ending.COMPLETE
    check_recovered(rig, dead, fault)


@SUDDEN
def test_a_prompt_that_is_being_read_when_the_engine_goes_wrong_is_answered_by_the_next_one(
    rig: Rig, fault: EngineFault
) -> None:
    before = rig.daemon.log.count(TRIED_AGAIN)
    prompt, other = rig.prefilling(REAL), rig.ask(TINY, max_tokens=200)
    dead = strike(rig, fault)
    assert prompt.outcome().ending is Ending.COMPLETE
    eventually(lambda: rig.daemon.log.count(TRIED_AGAIN) == before + 1)
    assert other.outcome().ending is Ending.COMPLETE
    check_recovered(rig, dead, fault)


@SUDDEN
def test_an_engine_that_goes_wrong_while_it_loads_fails_that_load(rig: Rig, fault: EngineFault) -> None:
    assert rig.unload(REAL).is_success
    with ThreadPoolExecutor(1) as threads:
        load, engine = rig.load_under_way(REAL, threads)
        inflict(fault, engine)
        assert load.result().is_error
        assert fault.epitaph in load.result().text
    assert REAL not in rig.models()
    assert rig.load(REAL).is_success
    check_invariants(rig)


# -------------------------------------------------------------------------------------------------------- and another


def test_while_an_engine_is_started_again_its_model_is_listed_as_recovering_and_chats_are_told_when_to_come_back(
    rig: Rig,
) -> None:
    dead = strike(rig, EngineFault.KILL)
    eventually(lambda: rig.models()[REAL] == "recovering")
    refused = rig.answer(REAL)
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    assert rig.answer(TINY).ending is Ending.COMPLETE
    check_recovered(rig, dead, EngineFault.KILL)


def test_a_whole_reply_that_was_tried_again_says_so(rig: Rig) -> None:
    reply = rig.prefilling(REAL, stream=False)
    dead = strike(rig, EngineFault.SEGV)
    assert reply.outcome().ending is Ending.COMPLETE
    assert reply.outcome().headers["x-neuron-retried"] == "1"
    check_recovered(rig, dead, EngineFault.SEGV)


def test_an_engine_that_dies_at_each_start_is_given_up_after_the_third_and_the_reason_is_told(rig: Rig) -> None:
    known = rig.daemon.engine_pids()
    strike(rig, EngineFault.SEGV)
    for _ in range(2):
        known.append(rig.wait_reading(beside=known))
        inflict(EngineFault.ABRT, known[-1])
    eventually(lambda: REAL not in rig.models())
    (lost,) = rig.daemon.health()["lost"]
    assert lost["model_id"] == REAL
    assert "3 times" in lost["error"]
    assert "SIGABRT" in lost["error"]
    check_invariants(rig)
    assert rig.answer(REAL).status == 404
    assert rig.load(REAL).is_success
    check_invariants(rig)


def test_a_request_with_which_two_engines_died_is_refused_as_suspect_and_takes_nobody_along(rig: Rig) -> None:
    suspect = rig.prefilling(REAL)
    dead = strike(rig, EngineFault.SEGV)
    rig.wait_recovered(REAL, dead=dead)
    eventually(lambda: rig.load_of(REAL)["in_flight"] == 1)
    dead = strike(rig, EngineFault.SEGV)
    outcome = suspect.outcome()
    assert (outcome.ending, outcome.code) == (Ending.ERROR_EVENT, "suspect_request")
    rig.wait_recovered(REAL, dead=dead)
    check_invariants(rig)


# ----------------------------------------------------------------------------------------------------- standing still


def test_engines_that_stand_still_are_ended_and_started_again_whatever_they_did(tmp_path: Path) -> None:
    """All at once, because each of them is given some time: more than a step takes, also on a busy machine."""
    idle, decoding, prefilling, loading = TINY, TINY_TOO, REAL, REAL_TOO
    stall_limit = f"stall_timeout_secs = {4 * slowness():.0f}"
    with (
        running_rig(tmp_path, config(tmp_path, idle, decoding, prefilling, llamacpp=stall_limit)) as rig,
        ThreadPoolExecutor(1) as threads,
    ):
        stopped = {model: rig.engine_of(model) for model in (idle, decoding, prefilling)}
        reply = rig.decoding(decoding, max_tokens=2000)
        inflict(EngineFault.STOP, stopped[decoding])
        prompt = rig.prefilling(prefilling)
        inflict(EngineFault.STOP, stopped[prefilling])
        inflict(EngineFault.STOP, stopped[idle])
        load, engine = rig.load_under_way(loading, threads)
        inflict(EngineFault.STOP, engine)

        outcome = reply.outcome()
        assert (outcome.ending, "no progress" in outcome.detail) == (Ending.ERROR_EVENT, True)
        assert prompt.outcome().ending is Ending.COMPLETE
        assert load.result().is_error
        assert "no progress" in load.result().text
        for model, dead in stopped.items():
            rig.wait_recovered(model, dead=dead)
        assert rig.models().keys() == stopped.keys()
        check_invariants(rig)
