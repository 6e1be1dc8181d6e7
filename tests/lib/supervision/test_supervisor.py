"""What the supervisor makes of engines; that requests get on meanwhile is tested with whole replies."""

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from neuron_lib.child.process import Child
from neuron_lib.config import AdmissionConfig, LlamaCppConfig
from neuron_lib.errors import LoadFailed, SourceUnavailable, UnloadFailed
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import EngineProcess, open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.sources.store import LocalModel
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.supervision.supervisor import EngineSupervisor, supervise

pytestmark = [pytest.mark.anyio, pytest.mark.process]

FAKE_ENGINE = Path(__file__).parents[2] / "fakes" / "fake_engine.py"
LOAD = load_command(
    LlamaCppConfig(n_ctx=64, n_batch=64, n_ubatch=64, threads=1, admission=AdmissionConfig(max_in_flight=1)),
    LocalModel(path=Path("/nowhere.gguf")),
    environ={},
)


@asynccontextmanager
async def supervised(*modes: str, limit_s: float = 5.0) -> AsyncIterator[EngineSupervisor[EngineClient]]:
    """The first engines have these modes, one after another; all others are normal."""
    left = iter(modes)

    def start() -> AbstractAsyncContextManager[EngineClient]:
        return open_engine(
            LOAD,
            model_id="org/fake",
            environment=engine_environment(os.environ),
            on_progress=lambda _fraction: None,
            command=(sys.executable, str(FAKE_ENGINE), next(left, "normal")),
            close_limit_s=limit_s,
            kill_limit_s=limit_s,
        )

    async with supervise(
        start, model_id="org/fake", policy=RestartPolicy(first_pause_s=0.01, longest_pause_s=0.02)
    ) as supervisor:
        yield supervisor


def process_of(supervisor: EngineSupervisor[EngineClient]) -> EngineProcess:
    """The engine that serves."""
    engine = supervisor.require_engine()
    assert isinstance(engine, EngineProcess)
    return engine


@pytest.mark.both_loops
async def test_a_first_engine_that_does_not_load_is_a_failed_load() -> None:
    with pytest.raises(LoadFailed, match="killed by SIGSEGV"):
        async with supervised("segv-at-load"):
            pytest.fail("it loaded")


def fail_with(number: int, *, times: int, then: Callable[..., object]) -> Callable[..., object]:
    """A function that fails for a while as an exhausted host lets it."""
    left = iter(range(times))

    def failing(*args: object, **kwargs: object) -> object:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return then(*args, **kwargs)

    return failing


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_a_start_that_the_host_has_no_means_for_is_no_death(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised() as supervisor:
        dead = process_of(supervisor)
        monkeypatch.setattr(socket, "socketpair", fail_with(number, times=9, then=socket.socketpair))
        os.kill(dead.pid, signal.SIGKILL)
        assert (await supervisor.successor(dead)).death is None
        assert (supervisor.loss, supervisor.restarts) == (None, 1)
        assert supervisor.last_death == "killed by SIGKILL"
    records = [vars(record) for record in caplog.records if "cannot be started now" in record.getMessage()]
    assert len(records) == 9
    assert all(os.strerror(number) in record["reason"] for record in records)
    assert {record["levelno"] for record in records} == {logging.WARNING}


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
async def test_a_process_that_the_host_has_no_room_for_is_no_death(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised() as supervisor:
        dead = process_of(supervisor)
        monkeypatch.setattr(anyio, "open_process", fail_with(number, times=9, then=anyio.open_process))
        os.kill(dead.pid, signal.SIGKILL)
        assert (await supervisor.successor(dead)).death is None
        assert supervisor.loss is None


async def test_a_program_that_is_gone_when_the_next_engine_is_due_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    async with supervised() as supervisor:
        monkeypatch.setattr(anyio, "open_process", fail_with(errno.ENOENT, times=9, then=anyio.open_process))
        os.kill(process_of(supervisor).pid, signal.SIGKILL)
        assert os.strerror(errno.ENOENT) in await supervisor.wait_lost()


async def test_a_first_engine_that_the_host_cannot_start_now_is_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "open_process", fail_with(errno.EAGAIN, times=1, then=anyio.open_process))
    with pytest.raises(SourceUnavailable, match="org/fake: an engine process cannot be started") as caught:
        async with supervised():
            pytest.fail("it was started")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exhausted-at-load", "RuntimeError: can't start new thread"),
        ("exhausted-in-native-code-at-load", "exit status 1 .libgomp: Thread creation failed"),
    ],
)
async def test_a_first_engine_without_threads_for_its_work_is_worth_a_retry(mode: str, words: str) -> None:
    with pytest.raises(SourceUnavailable, match=f"org/fake: the engine could not begin: {words}"):
        async with supervised(mode):
            pytest.fail("it loaded")


@pytest.mark.parametrize("mode", ["exhausted-at-load", "exhausted-in-native-code-at-load"])
async def test_an_engine_without_threads_for_its_work_has_not_died(mode: str) -> None:
    async with supervised("normal", *[mode] * 3) as supervisor:
        dead = process_of(supervisor)
        os.kill(dead.pid, signal.SIGKILL)
        assert (await supervisor.successor(dead)).death is None
        assert (supervisor.loss, supervisor.restarts) == (None, 1)
        assert supervisor.last_death == "killed by SIGKILL"


async def test_a_start_that_the_host_has_no_thread_for_is_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("can't start new thread")  # as of CPython

    monkeypatch.setattr(anyio, "open_process", fail)
    with pytest.raises(SourceUnavailable, match="org/fake: an engine process cannot be started"):
        async with supervised():
            pytest.fail("it was started")


@pytest.mark.both_loops
async def test_an_engine_that_cannot_be_killed_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("send_signal", "kill"):
        monkeypatch.setattr(Child, method, lambda *_: None)
    with pytest.raises(UnloadFailed, match="cannot be killed"):
        async with supervised("silent", limit_s=0.05) as supervisor:
            engine = process_of(supervisor)
    os.kill(engine.pid, signal.SIGKILL)
    await engine._process.wait()
    await engine._process.close()


@pytest.mark.both_loops
async def test_there_is_no_successor_after_the_end() -> None:
    async with supervised() as supervisor, anyio.create_task_group() as tasks:
        engine = supervisor.require_engine()
        tasks.start_soon(supervisor.wait_lost)
        assert supervisor.engine is engine
        tasks.cancel_scope.cancel()
    assert await supervisor.wait_lost() == "the model was unloaded"
    assert supervisor.engine is None
