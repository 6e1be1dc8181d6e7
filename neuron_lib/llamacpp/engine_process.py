"""One engine process seen from the daemon: its frames, its log, its death. Knows nothing of chats or limits."""

import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, assert_never

import anyio
from anyio.abc import SocketAttribute, SocketStream

from neuron_lib.child.process import Child, describe_exit, watch
from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Broken,
    Cancel,
    Cancelled,
    Command,
    Delta,
    Done,
    Fatal,
    Load,
    ModelFacts,
    Prepare,
    Prepared,
    Progress,
    ProtocolError,
    Ready,
    Refused,
    Report,
    StepEvents,
    Taken,
    encode_frame,
    report_decoder,
)
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    LoadFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    SourceUnavailable,
    TemplateFailed,
    first_leaf,
)
from neuron_lib.llamacpp.engine_child import engine_log, open_engine_child
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from neuron_lib.llamacpp.in_hand import InHand
from neuron_lib.llamacpp.mailbox import Mailbox
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
_BUSY_RETRY_S: Final = 4
"""What a request is told whose grammar the engine has no time for: eight others wait, of at most half a second each."""
_LAST_WORDS_LIMIT_S: Final = 2.0
_READ_BYTES: Final = 1 << 16
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
            standstill=EngineWatchdog(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s),
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine._write_commands, stream)
                tasks.start_soon(engine._read_reports, stream, kill_limit_s)
                tasks.start_soon(engine._watch_progress, abort_limit_s)
                engine.post(load)
                try:
                    yield engine
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_leaf(group) from None
        finally:
            engine._bury("the model was unloaded")


@dataclass(slots=True)
class _Letter:
    """A command on its way out; without a frame it has been withdrawn."""

    command: Command
    frame: bytes


class EngineProcess:
    """A running engine. Commands go out by `post`, which never waits; answers arrive in a request's `Mailbox`."""

    def __init__(
        self, process: Child, *, model_id: str, on_progress: Callable[[float], None], standstill: EngineWatchdog
    ) -> None:
        self.model_id: Final = model_id
        self.pid: Final = process.pid
        self.last_beat: Beat | None = None
        self.died_with: frozenset[int] = frozenset()
        """The requests it worked on when it died."""
        self._standstill: Final = standstill
        self._log: Final = engine_log(model_id=model_id, pid=process.pid)
        self._process: Final = process
        self._on_progress: Final = on_progress
        self._outbox, self._to_send = anyio.create_memory_object_stream[_Letter](math.inf)
        self._unsent: dict[int, _Letter] = {}  # prompts that are still here, by request
        self._mailboxes: dict[int, Mailbox] = {}
        self._accusers: dict[int, Callable[[str], object]] = {}  # of requests that are open or in hand
        self._in_hand = InHand()
        self._next_request = 1
        self._facts: ModelFacts | None = None
        self._fatal: str | None = None
        self._death: str | None = None
        self._settled = anyio.Event()  # ready or dead
        self._dead = anyio.Event()

    def __repr__(self) -> str:
        state = "dead" if self._death else "ready" if self._facts else "loading"
        return f"<EngineProcess {self.pid} {state} {self.model_id} with {len(self._mailboxes)} requests>"

    @property
    def death(self) -> str | None:
        """How the process ended; None as long as it has not."""
        return self._death

    @property
    def facts(self) -> ModelFacts:
        """What the model is, as this engine found it."""
        assert self._facts is not None  # nobody has it before it is ready
        return self._facts

    @property
    def exit_status(self) -> int | None:
        """As of `subprocess`: negative for a signal; None as long as the process has not been reaped."""
        return self._process.returncode

    @property
    def standstill(self) -> str | None:
        """What is wrong with an engine that will be ended unless it gets on soon; None if nothing is."""
        return self._standstill.suspicion

    async def wait_ready(self) -> ModelFacts:
        """Wait for the end of the load. Raises `LoadFailed` with the engine's own words, or `SourceUnavailable`."""
        await self._settled.wait()
        if self._facts is None:
            if self.exit_status == os.EX_TEMPFAIL or self._log.tells_of_no_thread:  # which is not about the model
                text = f"{self.model_id}: the engine could not begin: {self._death}"
                raise SourceUnavailable(text, model_id=self.model_id)
            raise LoadFailed(f"the engine could not load the model: {self._death}", model_id=self.model_id)
        return self._facts

    async def wait_dead(self) -> str:
        """Wait until the process ends without being told to; returns how."""
        await self._dead.wait()
        assert self._death is not None  # set before the event
        return self._death

    def open_mailbox(
        self, *, choices: int = 1, on_complete: Callable[[], object] = lambda: None
    ) -> tuple[int, Mailbox]:
        """A new request number and the `Mailbox` for what the engine says about it. Raises `EngineDead`."""
        if self._death is not None:
            raise EngineDead(self.model_id, self._death)
        request, self._next_request = self._next_request, self._next_request + 1
        mailbox = self._mailboxes[request] = Mailbox(choices=choices, on_complete=on_complete)
        return request, mailbox

    def close_mailbox(self, request: int) -> None:
        """Drop what still comes for this request."""
        self._mailboxes.pop(request, None)
        self._forget(request)

    def knows(self, request: int) -> bool:
        """Whether the engine was told of it and has not left it."""
        return self._in_hand.knows(request)

    def if_alone(self, request: int, accuse: Callable[[str], object]) -> None:
        """Have `accuse` called with the death of the engine, if it works on this request then and on no other.

        Also when nobody waits for the reply any more. The latest of a request counts.
        """
        self._accusers[request] = accuse

    def _forget(self, request: int) -> None:
        if request not in self._mailboxes and not self._in_hand.knows(request):
            self._accusers.pop(request, None)

    def post(self, command: Command) -> None:
        """Send a command without waiting; a dead engine loses it. Raises `InvalidRequest` if no frame can hold it."""
        try:
            frame = encode_frame(command)
        except ProtocolError as error:
            raise InvalidRequest(f"the request cannot be given to the engine: {error}") from error
        letter = _Letter(command, frame)
        if isinstance(command, Prepare):
            self._unsent[command.request] = letter
        elif isinstance(command, Cancel) and (unsent := self._unsent.pop(command.request, None)) is not None:
            # Clients who come and go before an engine that does not read must not pile up their prompts.
            unsent.frame = letter.frame = b""
            unsent.command = command
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._outbox.send_nowait(letter)

    async def _write_commands(self, stream: SocketStream) -> None:
        with self._to_send, suppress(anyio.BrokenResourceError):  # the reader sees the death and says so
            async for letter in self._to_send:
                if letter.frame:
                    self._in_hand.tell(letter.command)
                    if isinstance(letter.command, Prepare):
                        del self._unsent[letter.command.request]
                    await stream.send(letter.frame)

    async def _read_reports(self, stream: SocketStream, kill_limit_s: float) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._log.read, self._process.stderr)
            decoder = report_decoder()
            sock = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - no Django here
            try:
                while True:
                    # The wait in `receive` itself fails in asyncio if data comes as it is cancelled (anyio 4.16).
                    await anyio.wait_readable(sock)
                    for report in decoder.feed(await stream.receive(_READ_BYTES)):
                        self._take(report)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            except ProtocolError as error:
                self._fatal = str(error)
                self._process.kill()
            if await self._process.wait(_LAST_WORDS_LIMIT_S) is None:
                # It has hung up without ending: of no use to anybody.
                self._process.kill()
                await self._process.wait(kill_limit_s)
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
        self._die(self._epitaph())

    async def _watch_progress(self, abort_limit_s: float) -> None:
        """End an engine that stands still: politely, then so that it shows where it is, then for certain."""
        verdict = await watch(self._standstill)
        self._fatal = self._fatal or verdict
        logger.error("engine stands still, ending it", extra={"model_id": self.model_id, "reason": verdict})
        self.post(Abort())
        for end in (partial(self._process.send_signal, signal.SIGABRT), self._process.kill):
            if await self._process.wait(abort_limit_s) is None:
                end()
        if await self._process.wait(abort_limit_s) is None:
            self._die(f"{verdict}, and cannot be killed")

    def _take(self, report: Report) -> None:  # noqa: C901 - one case for each report
        self._standstill.hear(report)
        self._in_hand.hear(report)
        match report:
            case StepEvents(_, events):
                for event in events:
                    self._deliver(event)
            case Beat():
                self.last_beat = report
            case Taken():
                pass  # `InHand` has heard it
            case Prepared():
                self._deliver(report)
                self._forget(report.request)
            case Refused():
                self._fail(report.request, _refusal(report))
                self._forget(report.request)
            case Cancelled(request):
                self._forget(request)
            case Progress(fraction):
                self._on_progress(fraction)
            case Ready(facts):
                self._facts = facts
                self._log.mark_loaded()
                self._settled.set()
            case Fatal(message):
                self._fatal = self._fatal or message
            case _:
                assert_never(report)

    def _deliver(self, mail: Prepared | Delta | Done | Broken) -> None:
        if isinstance(mail, Broken):
            self._fail(mail.request, self._failure(mail))
        elif (mailbox := self._mailboxes.get(mail.request)) is not None:
            mailbox.put(mail)

    def _failure(self, broken: Broken) -> NeuronError:
        if broken.param is not None:
            return InvalidGrammar(broken.message, param=broken.param)
        return EngineFailed(broken.message, model_id=self.model_id)

    def _fail(self, request: int, error: NeuronError) -> None:
        if (mailbox := self._mailboxes.get(request)) is not None:
            mailbox.fail(error)

    def _epitaph(self) -> str:
        ended = self._fatal or describe_exit(self._process.returncode)
        words = self._log.last_words if self._fatal else self._log.words_before(self._process.returncode)
        return f"{ended} ({words})" if words else ended

    def _die(self, reason: str) -> None:
        """Find out who may be to blame, then tell everybody. An engine that is unloaded has not died."""
        if self._death is not None:
            return
        self.died_with = self._in_hand.requests
        match tuple(self.died_with):
            case (request,) if request in self._accusers:
                self._accusers[request](reason)
        self._bury(reason)

    def _bury(self, reason: str) -> None:
        """Tell everybody who waits that the process is gone. The first reason counts."""
        if self._death is not None:
            return
        self._death = reason
        self._outbox.close()
        for mailbox in self._mailboxes.values():
            mailbox.fail(EngineDead(self.model_id, reason))
        self._settled.set()
        self._dead.set()


def _refusal(refused: Refused) -> NeuronError:
    """An error that the engine met while preparing a prompt, as the exception it was there."""
    if refused.code == TemplateFailed.code:
        return TemplateFailed(refused.message)
    if refused.code == InvalidGrammar.code:
        return InvalidGrammar(refused.message, param=refused.param)
    if refused.code == Overloaded.code:
        return Overloaded(refused.message, reason=OverloadReason.QUEUE_FULL, retry_after_s=_BUSY_RETRY_S)
    return InvalidRequest(refused.message, param=refused.param or "messages")
