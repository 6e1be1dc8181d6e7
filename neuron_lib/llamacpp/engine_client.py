"""The daemon's side of one engine: requests go out, what the engine says about each of them comes in.

Knows frames and nothing of processes: `EngineProcess` gives it the socket of a real engine, tests give it streams in
memory. Knows nothing of chats or limits either.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, assert_never

import anyio
from anyio.abc import AnyByteReceiveStream, AnyByteSendStream, SocketAttribute

from neuron_lib.engine.protocol import (
    Beat,
    Began,
    Broken,
    Cancel,
    Cancelled,
    Command,
    Delta,
    Done,
    Fatal,
    ModelFacts,
    Planned,
    Prepared,
    Progress,
    ProtocolError,
    Ready,
    Refused,
    Report,
    SequenceEvent,
    StepEvents,
    Submit,
    Taken,
    Text,
    Tokens,
    Vector,
    encode_frame,
    report_decoder,
)
from neuron_lib.error_frames import ErrorFrame, from_frame
from neuron_lib.errors import EngineDead, EngineFailed, InvalidGrammar, InvalidRequest, LoadFailed, NeuronError
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from neuron_lib.llamacpp.memory_fit import does_not_fit, on_host
from neuron_lib.sockets import SocketReader, read_socket
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.engine import Engine
from neuron_lib.types import MemoryPlan

__all__ = ("EngineClient", "Listener", "News")

News = Prepared | Tokens | Text | Began | Delta | Done | Vector
"""What is told to the `Listener` of a request, as the engine says it."""


class Listener(Protocol):
    """Whoever submitted a request. The client calls it from its reading task; neither method waits or raises."""

    def hear(self, news: News) -> None:
        """Take what the engine says, in the engine's order."""
        ...

    def fail(self, error: NeuronError) -> None:
        """The request ends here, refused, broken, or lost with its engine. Nothing else is heard of it."""
        ...


class EngineClient(Engine):
    """One engine, from its start to its death. Everything that sends only queues, and never waits.

    `write_commands` and `read_reports` must run, each in a task, for as long as the engine is used.
    """

    def __init__(
        self,
        *,
        model_id: str,
        on_progress: Callable[[float], None],
        watchdog: EngineWatchdog,
        read: SocketReader = read_socket,
        gpus: Sequence[int] = (),
        rpc: Sequence[int] = (),
    ) -> None:
        """`read` reads the engine's socket. `gpus` are the host's numbers of the GPUs that the engine sees, and `rpc`
        those of the devices of RPC servers.
        """
        super().__init__(model_id=model_id)
        self.last_beat: Beat | None = None
        self._watchdog: Final = watchdog
        self._on_progress: Final = on_progress
        self._read: Final = read
        self._gpus: Final = gpus
        self._rpc: Final = rpc
        self._decoder: Final = report_decoder()
        self._facts: ModelFacts | None = None
        self._is_planned = anyio.Event()  # or dead
        self._planned: Planned | None = None  # with the host's numbers of the GPUs
        self._fatal: str | None = None  # the engine's own words, or what is wrong with its frames
        self._listeners: dict[int, Listener] = {}  # of requests that were submitted and have neither ended nor left
        self._left: dict[int, Callable[[], object]] = {}  # of requests that were left and that the engine has still
        self._unsent: dict[int, bytes] = {}  # frames of submitted requests, by number
        self._controls: deque[bytes] = deque()  # frames of other commands
        self._taken: frozenset[int] = frozenset()  # requests whose prompts are being prepared, as the engine says
        self._begun: dict[int, int] = {}  # replies that have not ended, of requests that have begun, as the engine says
        self._something_to_send = anyio.Event()
        self._settled = anyio.Event()  # ready or dead

    def __repr__(self) -> str:
        state = "dead" if self.death else "ready" if self._facts else "loading"
        return f"<{type(self).__name__} {state} {self.model_id} with {len(self._listeners)} requests>"

    @property
    def facts(self) -> ModelFacts:
        """What the model is, as this engine found it. Must not be asked before the engine is ready."""
        assert self._facts is not None
        return self._facts

    @property
    def standstill(self) -> str | None:
        """What is wrong with an engine that will be ended unless it gets on soon; None if nothing is."""
        return self._watchdog.suspicion

    @property
    def at_work(self) -> frozenset[int]:
        """The requests that the engine says it works on: prompts that it prepares, and what has begun and not ended."""
        return self._taken | frozenset(self._begun)

    async def wait_ready(self) -> ModelFacts:
        """Wait for the end of the load. Raises `LoadFailed` with the engine's own words."""
        await self._settled.wait()
        if self._facts is None:
            raise self._load_failure()
        return self._facts

    async def wait_planned(self) -> MemoryPlan:
        """Wait until the engine has planned its memory. Raises `LoadFailed` with the engine's own words."""
        await self._is_planned.wait()
        if self._planned is None:
            raise self._load_failure()
        if self._planned.plan is None:
            raise LoadFailed(
                "this build of llama.cpp does not say how much memory a load takes", model_id=self.model_id
            )
        return self._planned.plan

    def _load_failure(self) -> NeuronError:
        assert self.death is not None  # it is settled without being ready
        planned = self._planned
        if planned is not None and planned.is_refused and planned.plan is not None:
            return does_not_fit(planned.plan, model_id=self.model_id)
        return LoadFailed(f"the engine could not load the model: {self.death.reason}", model_id=self.model_id)

    # ------------------------------------------------------------------------------------------------------- requests

    def submit(self, submit: Submit, listener: Listener) -> None:
        """Have the engine do a request, and `listener` hear of it.

        Requests that cannot be sent at once are sent in the order of their numbers. Raises `EngineDead`, and
        `InvalidRequest` if no frame can hold the request.
        """
        if self.death is not None:
            raise EngineDead(self.model_id, self.death.reason)
        try:
            self._unsent[submit.request] = encode_frame(submit)
        except ProtocolError as error:
            raise InvalidRequest(f"the request cannot be given to the engine: {error}") from error
        self._listeners[submit.request] = listener
        self._something_to_send.set()

    def leave(self, request: int, *, let_go: Callable[[], object] = lambda: None) -> bool:
        """Hear no more of a request, and have the engine give it up unless it has ended. May be called twice.

        Returns whether the engine still has it. Then `let_go` is called once, when the engine has let go of it or is
        gone.
        """
        if self._listeners.pop(request, None) is None or self._unsent.pop(request, None) is not None:
            return False
        self._left[request] = let_go
        self.post(Cancel(request))
        return True

    def may_work_on(self, request: int) -> bool:
        """Whether the engine may be working on a request, as far as is known here."""
        return request in self.at_work or (request in self._listeners and request not in self._unsent)

    def post(self, command: Command) -> None:
        """Send a command that is no request. A dead engine does not get it."""
        self._controls.append(encode_frame(command))
        self._something_to_send.set()

    # ---------------------------------------------------------------------------------------------------------- tasks

    async def write_commands(self, stream: AnyByteSendStream) -> None:
        """Send what there is to send, until the engine has hung up."""
        try:
            while True:
                if self._controls:
                    await stream.send(self._controls.popleft())
                elif self._unsent:
                    await stream.send(self._unsent.pop(min(self._unsent)))
                else:
                    self._something_to_send = anyio.Event()
                    await self._something_to_send.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the reader sees the end and says how it came

    async def read_reports(self, stream: AnyByteReceiveStream) -> None:
        """Take in what the engine says, until it has hung up. Raises `ProtocolError` for what is no report."""
        # The wait in `receive` of a socket's stream fails in asyncio if data comes as it is cancelled (anyio 4.16).
        sock = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - anyio's `extra`, not Django's
        if sock is not None:
            await self._read(sock, self._take_in)
        else:
            async for data in stream:
                self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        for report in self._decoder.feed(data):
            self._take(report)

    def _take(self, report: Report) -> None:  # noqa: C901, PLR0912 - one case for each report
        self._watchdog.hear(report)
        match report:
            case StepEvents(_, events):
                for event in events:
                    self._take_event(event)
            case Beat():
                self.last_beat = report
            case Taken(requests):
                self._taken = frozenset(requests)
            case Prepared():
                self._taken -= {report.request}
                self._tell(report)
            case Refused(request, error):
                self._fail(request, _refusal(error))
            case Tokens() | Text():
                self._tell(report)
                self._end(report.request)
            case Began():
                self._begun[report.request] = report.replies
                self._tell(report)
            case Cancelled(request):
                self._end(request)
            case Progress(fraction):
                self._on_progress(fraction)
            case Planned(plan, is_refused):
                shown = None if plan is None else on_host(plan, gpus=self._gpus, rpc=self._rpc)
                self._planned = Planned(shown, is_refused=is_refused)
                self._is_planned.set()
            case Ready(facts):
                self._facts = facts
                self._note_ready()
                self._settled.set()
            case Fatal(message):
                self._fatal = self._fatal or message
            case _:
                assert_never(report)

    def _note_ready(self) -> None:
        """The model is loaded."""

    def _take_event(self, event: SequenceEvent) -> None:
        match event:
            case Delta():
                self._tell(event)
            case Done() | Vector():
                self._tell(event)
                left = self._begun.get(event.request, 1) - 1
                if left:
                    self._begun[event.request] = left
                else:
                    self._end(event.request)
            case Broken(param=None):
                self._fail(event.request, EngineFailed(event.message, model_id=self.model_id))
            case Broken():
                self._fail(event.request, InvalidGrammar(event.message, param=event.param))

    def _tell(self, news: News) -> None:
        listener = self._listeners.get(news.request)
        if listener is not None:
            listener.hear(news)

    def _fail(self, request: int, error: NeuronError) -> None:
        listener = self._end(request)
        if listener is not None:
            listener.fail(error)

    def _end(self, request: int) -> Listener | None:
        """The engine is done with a request; returns who listens to it."""
        self._taken -= {request}
        self._begun.pop(request, None)
        if (let_go := self._left.pop(request, None)) is not None:
            let_go()
        return self._listeners.pop(request, None)

    # ------------------------------------------------------------------------------------------------------------ end

    def tell_of(self, death: Death, /) -> None:
        """See `Engine`."""
        listeners, self._listeners = self._listeners, {}
        left, self._left = self._left, {}
        self._unsent.clear()
        self._settled.set()
        self._is_planned.set()
        for let_go in left.values():
            let_go()
        for listener in listeners.values():
            listener.fail(EngineDead(self.model_id, death.reason))


def _refusal(frame: ErrorFrame) -> NeuronError:
    """The error that the engine met in preparing a request."""
    error = from_frame(frame, unknown=EngineFailed)
    if type(error) is InvalidRequest and error.param is None:
        error.param = "messages"
    return error
