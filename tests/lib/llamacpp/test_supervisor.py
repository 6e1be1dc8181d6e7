"""What the supervisor makes of engines; that requests get on meanwhile is tested with whole replies."""

import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from neuron_lib.config import AdmissionConfig, LlamaCppConfig
from neuron_lib.errors import LoadFailed, UnloadFailed
from neuron_lib.llamacpp import engine_process
from neuron_lib.llamacpp.engine_process import engine_environment, open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.llamacpp.recovery import RecoveryPolicy
from neuron_lib.llamacpp.supervisor import EngineSupervisor, supervise
from neuron_lib.sources.store import LocalModel

pytestmark = pytest.mark.anyio

FAKE_ENGINE = Path(__file__).parents[2] / "fakes" / "fake_engine.py"
LOAD = load_command(
    LlamaCppConfig(n_ctx=64, n_batch=64, n_ubatch=64, threads=1, admission=AdmissionConfig(max_in_flight=1)),
    LocalModel(path=Path("/nowhere.gguf")),
    environ={},
)


@asynccontextmanager
async def supervised(mode: str = "normal", *, limit_s: float = 5.0) -> AsyncIterator[EngineSupervisor]:
    start = partial(
        open_engine,
        LOAD,
        model_id="org/fake",
        environment=engine_environment(os.environ),
        on_progress=lambda _fraction: None,
        command=(sys.executable, str(FAKE_ENGINE), mode),
        close_limit_s=limit_s,
        kill_limit_s=limit_s,
    )
    async with supervise(start, model_id="org/fake", policy=RecoveryPolicy(first_pause_s=0.01)) as supervisor:
        yield supervisor


async def test_a_first_engine_that_does_not_load_is_a_failed_load() -> None:
    with pytest.raises(LoadFailed, match="killed by SIGSEGV"):
        async with supervised("segv-at-load"):
            pytest.fail("it loaded")


async def test_an_engine_that_cannot_be_started_again_has_died_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with supervised() as supervisor:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", no_descriptors)
            os.kill(supervisor.require_engine().pid, signal.SIGKILL)
            assert "died 3 times" in (loss := await supervisor.wait_lost())
            assert os.strerror(errno.EMFILE) in loss


async def test_an_engine_that_cannot_be_killed_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "_send_signal", lambda *_: None)
    with pytest.raises(UnloadFailed, match="cannot be killed"):
        async with supervised("silent", limit_s=0.05) as supervisor:
            engine = supervisor.require_engine()
    os.kill(engine.pid, signal.SIGKILL)
    await engine._process.aclose()


async def test_there_is_no_successor_after_the_end() -> None:
    async with supervised() as supervisor, anyio.create_task_group() as tasks:
        engine = supervisor.require_engine()
        tasks.start_soon(supervisor.wait_lost)
        assert supervisor.engine is engine
        tasks.cancel_scope.cancel()
    assert await supervisor.wait_lost() == "the model was unloaded"
    assert supervisor.engine is None
