"""A daemon that is told to end, or is ended, in every phase of its life."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from tests.fakehub import FakeHub, fake_hub
from tests.fakes.hub_faults import Stall
from tests.faults.engine_faults import held
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_end, check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import REAL, TINY, Rig
from tests.system.daemon import eventually, hold, is_gone, let_go, running_daemon
from tests.system.fetches import fetch_pids, large_model, source

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

RESTARTS = 20
SHORT_DRAIN = "drain_timeout_secs = 1"
ANSWERED = re.compile(r"reply finished .* prompt_tokens=\d{3,} ")
"""Of the long prompt."""
DRAINING = "SIGTERM received, draining"
FAR = "org/name"
HELD_BYTES = 2_000_000  # more than a header, which is fetched first


@contextmanager
def stalling_hub() -> Iterator[FakeHub]:
    """A hub that sends the beginning of a model, and the rest when it is told to."""
    with fake_hub({FAR: {"m-Q8_0.gguf": large_model()}}) as hub:
        hub.fail(Stall(HELD_BYTES))
        try:
            yield hub
        finally:
            hub.release()


def end(rig: Rig) -> None:
    """SIGTERM, and all that was promised for it."""
    family = rig.daemon.engine_pids()
    check_end(rig)
    assert all(is_gone(pid) for pid in family)


def before_the_end(rig: Rig) -> str:
    """The log up to the signal."""
    return rig.daemon.log.partition(DRAINING)[0]


def test_sigterm_while_idle(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL, TINY)) as rig:
        check_invariants(rig)
        end(rig)


def test_sigterm_while_a_model_loads(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, TINY)) as rig, ThreadPoolExecutor(2) as threads:
        load, engine = rig.load_under_way(REAL, threads)
        with held(engine):
            ending = threads.submit(end, rig)
            eventually(lambda: DRAINING in rig.daemon.log)
        ending.result()
        assert load.result().is_error
        assert "load cancelled" in rig.daemon.log


def test_sigterm_while_a_prompt_is_read(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL)) as rig:
        prompt = rig.prefilling()
        end(rig)
        assert prompt.outcome().ending is Ending.COMPLETE
        assert ANSWERED.search(rig.daemon.log)
        assert not ANSWERED.search(before_the_end(rig))


def test_sigterm_while_replies_run_and_others_wait(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL, top=SHORT_DRAIN, seats=1)) as rig:
        running = rig.decoding()
        waiting = [rig.ask(stream=stream) for stream in (True, False)]
        eventually(lambda: rig.load_of(REAL)["queue_depth"] == 2)
        end(rig)
        assert running.outcome().ending is Ending.ERROR_EVENT
        refused = [exchange.outcome() for exchange in waiting]
        assert [(outcome.ending, outcome.code) for outcome in refused] == [(Ending.REFUSED, "shutting_down")] * 2
        assert {outcome.headers["retry-after"] for outcome in refused} == {"15"}


def test_sigterm_while_a_model_is_fetched(tmp_path: Path) -> None:
    with stalling_hub() as hub, ThreadPoolExecutor(1) as threads:
        folder = tmp_path / "daemon"
        with running_rig(folder, config(folder, TINY) + source(hub.url, tmp_path / "cache")) as rig:
            load = threads.submit(rig.load, FAR)
            eventually(lambda: fetch_pids(rig.daemon))
            hub.wait_held()
            end(rig)
            assert load.result().is_error


def test_sigterm_while_a_model_recovers(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL, TINY)) as rig:
        known = rig.daemon.engine_pids()
        os.kill(rig.engine_of(REAL), signal.SIGKILL)
        engine = rig.wait_reading(beside=known)
        with ThreadPoolExecutor(1) as threads, held(engine):
            ending = threads.submit(end, rig)
            eventually(lambda: DRAINING in rig.daemon.log)
        ending.result()
        assert "engine recovered" not in before_the_end(rig)


def test_a_second_sigterm_waits_for_nobody(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL)) as rig:
        reply = rig.decoding()
        (engine,) = rig.daemon.engine_pids()
        hold(engine)
        rig.gateway.stop()
        rig.daemon.signal(signal.SIGTERM)
        eventually(lambda: DRAINING in rig.daemon.log)
        assert rig.daemon.insist(signal.SIGTERM) == 128 + signal.SIGTERM
        let_go(engine)
        eventually(lambda: is_gone(engine))
        assert reply.outcome().ending is Ending.BROKEN  # at once means at once


# ---------------------------------------------------------------------------------------------------------- SIGKILL


def test_twenty_kills_and_restarts_leave_nothing_behind_and_nothing_changed(tmp_path: Path) -> None:
    with stalling_hub() as hub:
        cache = tmp_path / "cache"
        folder = tmp_path / "daemon"
        text = config(folder, TINY, FAR) + source(hub.url, cache)
        for number in range(RESTARTS):
            with running_daemon(folder, text) as daemon:
                match number % 4:
                    case 0:
                        pass  # it has only just begun to listen
                    case 1:
                        eventually(daemon.engine_pids)
                    case 2:
                        eventually(lambda daemon=daemon: TINY in daemon.health()["activation"]["completed"])  # type: ignore[misc]  # bound now
                    case _:
                        eventually(lambda daemon=daemon: fetch_pids(daemon))  # type: ignore[misc]  # bound now
                        hub.wait_held()
                family = psutil.Process(daemon.process.pid).children(recursive=True)
                daemon.signal(signal.SIGKILL)
                assert daemon.wait() == -signal.SIGKILL
                for child in family:
                    eventually(lambda child=child: not child.is_running() or is_gone(child.pid))  # type: ignore[misc]  # bound now
        assert list(cache.glob("**/*.incomplete"))
        hub.heal()
        hub.release()
        with running_rig(folder, text) as rig:
            assert set(rig.models()) == {TINY, FAR}
            check_invariants(rig)
        assert not list(cache.glob("**/*.incomplete"))
        (path,) = cache.glob("models--org--name/snapshots/*/*.gguf")
        assert sha256(path.read_bytes()).digest() == sha256(large_model()).digest()
