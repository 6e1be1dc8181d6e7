"""A program that goes wrong in any way costs its own requests at most, as an engine of ours does."""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.fakes.programs import PROGRAM
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import TINY, Rig
from tests.patience import slowness
from tests.system.daemon import eventually

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

MODEL = "test/program"
SLOW = "test/slow"
TAKEN = "test/taken"


def harness(name: str, *args: str, model: str, more: str = "") -> str:
    """A harness of the fake program, and its model."""
    command = ", ".join(f'"{word}"' for word in (sys.executable, "-S", PROGRAM, *args))
    limit_s = 2 * slowness()
    return f"""
[[harnesses]]
name = "{name}"
kind = "process"
command = [{command}]
env = {{ FAKE_KEY = "{{api_key}}" }}
ready = {{ path = "/health" }}
health = {{ path = "/health", interval_secs = 0.2, limit_secs = {limit_s} }}
stall_timeout_secs = {limit_s}
{more}

[[models]]
id = "{model}"
harness = "{name}"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("programs")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        harnesses = (
            harness("fake", "--socket", "{socket}", model=MODEL)
            + harness("slow", "--port", "{port}", "--mode", "talks", model=SLOW)
            + harness("taken", "--port", str(taken.getsockname()[1]), "--folder", "{port}", model=TAKEN)
        )
        text = config(folder, TINY, MODEL).replace(f'"{MODEL}", harness = "llamacpp"', f'"{MODEL}", harness = "fake"')
        with running_rig(folder, text + '[[harnesses]]\nname = "llamacpp"\n' + harnesses) as rig:
            yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """Each test gets a program with no deaths behind it."""
    if MODEL in shared.models():
        assert shared.unload(MODEL).is_success
    load(shared, MODEL)
    return shared


def load(rig: Rig, model: str) -> None:
    reply = rig.daemon.client.post("/models/load", json={"model_id": model})
    assert reply.is_success, reply.text


def program_of(rig: Rig) -> int:
    """The process id of the latest program that serves the model."""
    return int(re.findall(rf"model_id={MODEL} harness=fake pid=(\d+)", rig.daemon.log)[-1])


def check_recovered(rig: Rig, dead: int, reason: str) -> None:
    eventually(lambda: rig.models().get(MODEL) == "loaded" and program_of(rig) != dead)
    assert rig.load_of(MODEL)["engine_restarts"] == 1
    assert reason in rig.load_of(MODEL)["last_engine_death"]
    check_invariants(rig)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("segv", "killed by SIGSEGV"),
        ("kill", "killed by SIGKILL"),
        ("exit", "exit status 0"),
        ("hang", "silent for"),
        ("stall", "no progress for"),
    ],
)
def test_a_program_that_goes_wrong_in_mid_reply_ends_that_reply_with_an_error_event(
    rig: Rig, mode: str, reason: str
) -> None:
    dead, other = program_of(rig), rig.ask(TINY, max_tokens=200)
    assert rig.answer(MODEL, content=mode).ending is Ending.ERROR_EVENT
    assert other.outcome().ending is Ending.COMPLETE
    check_recovered(rig, dead, reason)


@pytest.mark.parametrize("mode", ["garbage", "cut"])
def test_a_program_that_sends_garbage_or_half_a_reply_fails_that_request_alone(rig: Rig, mode: str) -> None:
    assert rig.answer(MODEL, content=mode).ending is Ending.ERROR_EVENT
    assert rig.load_of(MODEL)["engine_restarts"] == 0
    check_invariants(rig)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSTOP, "silent for")])
def test_a_model_whose_idle_program_goes_wrong_comes_back_by_itself(
    rig: Rig, number: signal.Signals, reason: str
) -> None:
    dead = program_of(rig)
    os.kill(dead, number)
    assert rig.answer(TINY).ending is Ending.COMPLETE
    check_recovered(rig, dead, reason)


def test_a_request_with_which_two_programs_died_is_refused_as_suspect(rig: Rig) -> None:
    outcome = rig.answer(MODEL, content="die-first")
    assert (outcome.ending, outcome.code) == (Ending.REFUSED, "suspect_request")
    check_invariants(rig)


def test_a_slow_start_holds_nobody_up(shared: Rig) -> None:
    """It takes longer than the program may be still."""
    load(shared, SLOW)
    assert shared.answer(SLOW).ending is Ending.COMPLETE
    assert shared.unload(SLOW).is_success
    check_invariants(shared)


def test_a_program_whose_port_is_taken_fails_its_load_with_its_own_words(shared: Rig) -> None:
    reply = shared.daemon.client.post("/models/load", json={"model_id": TAKEN})
    assert reply.is_error
    assert "cannot listen: Address already in use" in reply.text
    assert TAKEN not in shared.models()
    check_invariants(shared)
