"""One engine process: its start, its log, its end. What is said to it and by it is for `EngineClient`."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

from neuron_lib.child.process import Child, describe_exit, watch
from neuron_lib.engine.protocol import Abort, Load, ProtocolError
from neuron_lib.errors import NeuronError, SourceUnavailable, first_leaf
from neuron_lib.llamacpp.engine_child import engine_log, open_engine_child, with_rpc_servers
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.sockets import SocketReader, read_socket

__all__ = ("EngineProcess", "open_engine")

logger: FieldLogger = get_logger(__name__)

_CLOSE_LIMIT_S: Final = 5.0
"""An engine that was told to close gets this long before it is killed."""
_KILL_LIMIT_S: Final = 10.0
"""One that was killed gets this long to be gone; what hangs in a driver may never be."""
_STALL_LIMIT_S: Final = 300.0
"""An engine that has work and does not get on with it for this long is ended. One step of a large model that reads a
prompt on a CPU may well take a minute or two, and busy is not dead."""
_SILENCE_LIMIT_S: Final = 30.0
"""One that does not even beat, which it does each second whatever it computes, is ended after this."""
_ABORT_LIMIT_S: Final = 5.0
"""How long an engine that is to be ended has for each of the gentler ways."""
_LAST_WORDS_LIMIT_S: Final = 2.0
_COMMAND: Final = (sys.executable, "-P", "-m", "neuron_lib.engine")


@asynccontextmanager
async def open_engine(
    load: Load,
    *,
    model_id: str,
    environment: Mapping[str, str],
    on_progress: Callable[[float], None],
    command: Sequence[str] = _COMMAND,
    ends_with_thread: bool = False,
    read: SocketReader = read_socket,
    gpus: Sequence[int] = (),
    rpc: Sequence[int] = (),
    close_limit_s: float = _CLOSE_LIMIT_S,
    stall_limit_s: float = _STALL_LIMIT_S,
    silence_limit_s: float = _SILENCE_LIMIT_S,
    abort_limit_s: float = _ABORT_LIMIT_S,
    kill_limit_s: float = _KILL_LIMIT_S,
) -> AsyncIterator["EngineProcess"]:
    """An engine process that is loading `load` when the block begins and is gone when the block has ended.

    Await `EngineProcess.wait_ready` inside. `command` is the program to start; it gets `--fd N` appended. `gpus` are
    the host's numbers of the GPUs that the environment shows to the engine, and `rpc` those of `load.rpc_devices`. An
    engine ends when the daemon does; with `ends_with_thread` the kernel sees to that too, see `LlamaCppHarness`. An
    engine that has work and takes no step for `stall_limit_s`, or says nothing for `silence_limit_s`, is told to abort,
    then sent SIGABRT, then SIGKILL, with up to `abort_limit_s` for each. Raises `SourceUnavailable` while the host is
    out of descriptors, memory or processes, and `UnloadFailed` for an engine that is still there `kill_limit_s` after
    its SIGKILL.
    """
    async with open_engine_child(
        command,
        model_id=model_id,
        environment=environment,
        ends_with_thread=ends_with_thread,
        close_limit_s=close_limit_s,
        kill_limit_s=kill_limit_s,
    ) as (process, stream):
        engine = EngineProcess(
            process,
            model_id=model_id,
            on_progress=on_progress,
            watchdog=EngineWatchdog(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s),
            read=read,
            gpus=gpus,
            rpc=rpc,
            rpc_servers=tuple(dict.fromkeys(device.server for device in load.rpc_devices)),
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.write_commands, stream)
                tasks.start_soon(engine._live, stream, kill_limit_s)
                tasks.start_soon(engine._watch_progress, abort_limit_s)
                engine.post(load)
                try:
                    yield engine
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_leaf(group) from None
        finally:
            engine.bury("the model was unloaded")


class EngineProcess(EngineClient):
    """A running engine process and what is said to it and by it."""

    def __init__(
        self,
        process: Child,
        *,
        model_id: str,
        on_progress: Callable[[float], None],
        watchdog: EngineWatchdog,
        read: SocketReader = read_socket,
        gpus: Sequence[int] = (),
        rpc: Sequence[int] = (),
        rpc_servers: Sequence[str] = (),
    ) -> None:
        """See `open_engine`. `rpc_servers` are the addresses that the engine is connected to."""
        super().__init__(model_id=model_id, on_progress=on_progress, watchdog=watchdog, read=read, gpus=gpus, rpc=rpc)
        self._rpc_servers: Final = rpc_servers
        self.pid: Final = process.pid
        self._log: Final = engine_log(model_id=model_id, pid=process.pid)
        self._process: Final = process

    @property
    def exit_status(self) -> int | None:
        """As of `subprocess`: negative for a signal; None as long as the process has not been reaped."""
        return self._process.returncode

    def _load_failure(self) -> NeuronError:
        if self.exit_status == os.EX_TEMPFAIL or self._log.tells_of_no_thread:  # which is not about the model
            assert self.death is not None  # it is settled without being ready
            text = f"{self.model_id}: the engine could not begin: {self.death.reason}"
            return SourceUnavailable(text, model_id=self.model_id)
        return super()._load_failure()

    def _note_ready(self) -> None:
        self._log.mark_loaded()

    async def _live(self, stream: ByteReceiveStream, kill_limit_s: float) -> None:
        """Read the log and the reports of the process until it has ended; then say how."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._log.read, self._process.stderr)
            try:
                await self.read_reports(stream)
            except ProtocolError as error:
                self._fatal = str(error)
                self._process.kill()
            if await self._process.wait(_LAST_WORDS_LIMIT_S) is None:
                # It has hung up without ending, so nobody can use it any more.
                self._process.kill()
                await self._process.wait(kill_limit_s)
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
        self.die(self._epitaph())

    async def _watch_progress(self, abort_limit_s: float) -> None:
        """End an engine that stands still: politely, then so that it shows where it is, then for certain."""
        verdict = await watch(self._watchdog)
        if self._rpc_servers:
            verdict = f"{verdict}; one of its RPC servers may hang: {', '.join(self._rpc_servers)}"
        self._fatal = self._fatal or verdict
        logger.error("engine stands still, ending it", extra={"model_id": self.model_id, "reason": verdict})
        self.post(Abort())
        for end in (partial(self._process.send_signal, signal.SIGABRT), self._process.kill):
            if await self._process.wait(abort_limit_s) is None:
                end()
        if await self._process.wait(abort_limit_s) is None:
            self.die(f"{verdict}, and cannot be killed")

    def _epitaph(self) -> str:
        ended = self._fatal or describe_exit(self._process.returncode)
        words = self._log.last_words if self._fatal else self._log.words_before(self._process.returncode)
        told = f"{ended} ({words})" if words else ended
        return with_rpc_servers(told, self._rpc_servers)
