"""One engine process: its start, its log, its end. What is said to it and by it is for `EngineClient`."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process, UNIXSocketStream
from anyio.lowlevel import checkpoint_if_cancelled

from neuron_lib.engine.protocol import Abort, Load, ProtocolError
from neuron_lib.errors import NeuronError, SourceUnavailable, first_leaf
from neuron_lib.llamacpp.child_process import close_stream, describe_exit, end_process, send_signal, starting
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_log import EngineLog
from neuron_lib.llamacpp.standstill import Standstill
from neuron_lib.logs import get_logger

__all__ = ("EngineProcess", "open_engine")

logger = get_logger(__name__)

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
    close_limit_s: float = _CLOSE_LIMIT_S,
    stall_limit_s: float = _STALL_LIMIT_S,
    silence_limit_s: float = _SILENCE_LIMIT_S,
    abort_limit_s: float = _ABORT_LIMIT_S,
    kill_limit_s: float = _KILL_LIMIT_S,
) -> AsyncIterator["EngineProcess"]:
    """An engine process that is loading `load` when the block begins and is gone when the block has ended.

    Await `EngineProcess.wait_ready` inside. `command` is the program to start; it gets `--fd N` appended. An engine
    ends when the daemon does; with `ends_with_thread` the kernel sees to that too, see `LlamaCppHarness`. An engine
    that has work and takes no step for `stall_limit_s`, or says nothing for `silence_limit_s`, is told to abort, then
    sent SIGABRT, then SIGKILL, with up to `abort_limit_s` for each. Raises `SourceUnavailable` while the host is out of
    descriptors, memory or processes, and `UnloadFailed` for an engine that is still there `kill_limit_s` after its
    SIGKILL.
    """
    parent = ("--parent", str(os.getpid())) if ends_with_thread else ()
    with starting(model_id):
        ours, theirs = socket.socketpair()
    async with AsyncExitStack() as held:
        held.enter_context(ours)  # until the stream owns it; closing it twice does no harm
        with theirs:
            stream = await UNIXSocketStream.from_socket(ours)
            held.push_async_callback(close_stream, stream)
            # A cancellation that got in between would leave a process that nobody waits for.
            with starting(model_id), anyio.CancelScope(shield=True):
                process = await anyio.open_process(
                    [*command, "--fd", str(theirs.fileno()), *parent],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environment,
                    # A Ctrl-C in the daemon's terminal is for the daemon, which drains before it ends its engines.
                    start_new_session=True,
                    pass_fds=[theirs.fileno()],
                )
        held.push_async_callback(
            end_process, process, stream, model_id=model_id, limit_s=close_limit_s, kill_limit_s=kill_limit_s
        )
        await checkpoint_if_cancelled()
        engine = EngineProcess(
            process,
            model_id=model_id,
            on_progress=on_progress,
            standstill=Standstill(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s),
        )
        held.callback(engine.bury, "the model was unloaded")
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


class EngineProcess(EngineClient):
    """A running engine process and what is said to it and by it."""

    def __init__(
        self, process: Process, *, model_id: str, on_progress: Callable[[float], None], standstill: Standstill
    ) -> None:
        super().__init__(model_id=model_id, on_progress=on_progress, standstill=standstill)
        self.pid: Final = process.pid
        self._log: Final = EngineLog(model_id=model_id, pid=process.pid)
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
        assert self._process.stderr is not None  # piped
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._log.read, self._process.stderr)
            try:
                await self.read_reports(stream)
            except ProtocolError as error:
                self._fatal = str(error)
                send_signal(self._process, signal.SIGKILL)
            with anyio.move_on_after(_LAST_WORDS_LIMIT_S):
                await self._process.wait()
            if self._process.returncode is None:
                # It has hung up without ending, so nobody can use it any more.
                send_signal(self._process, signal.SIGKILL)
                with anyio.move_on_after(kill_limit_s):
                    await self._process.wait()
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
        self.die(self._epitaph())

    async def _watch_progress(self, abort_limit_s: float) -> None:
        """End an engine that stands still: politely, then so that it shows where it is, then for certain."""
        while (verdict := self._standstill.verdict) is None:
            await anyio.sleep(self._standstill.look_s)
            self._standstill.look()
        self._fatal = self._fatal or verdict
        logger.error("engine stands still, ending it", extra={"model_id": self.model_id, "reason": verdict})
        self.post(Abort())
        for number in (signal.SIGABRT, signal.SIGKILL):
            with anyio.move_on_after(abort_limit_s):
                await self._process.wait()
            send_signal(self._process, number)
        with anyio.move_on_after(abort_limit_s):
            await self._process.wait()
        if self._process.returncode is None:
            self.die(f"{verdict}, and cannot be killed")

    def _epitaph(self) -> str:
        ended = self._fatal or describe_exit(self._process.returncode)
        words = self._log.last_words if self._fatal else self._log.words_before(self._process.returncode)
        return f"{ended} ({words})" if words else ended
