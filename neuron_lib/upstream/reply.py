"""The reply to one request that another server makes: admitted here, sent there, read, and given up by hanging up."""

import secrets
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import anyio

from neuron_lib.admission import AdmissionController
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    SuspectRequest,
    UpstreamRefused,
)
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.shown import one_word
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.quarantine import Quarantine
from neuron_lib.supervision.supervisor import EngineSupervisor
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    EventBeforeEnd,
    Finished,
    GenerationEvent,
    Started,
    Task,
    Tokenize,
    Usage,
    is_whole,
)
from neuron_lib.upstream.answers import MAX_ANSWER_BYTES, events_of
from neuron_lib.upstream.bodies import UpstreamCall, call_of, guessed_prompt_tokens, refuse_if_impossible
from neuron_lib.upstream.client import Exchange, Silent, Unreachable
from neuron_lib.upstream.connection import ConnectionLost
from neuron_lib.upstream.engine import UpstreamEngine
from neuron_lib.upstream.hops import HOPS_HEADER
from neuron_lib.upstream.reading import ReplyReading
from neuron_lib.upstream.refusals import refusal_of
from neuron_lib.upstream.seats import Seats
from neuron_lib.upstream.sse import EventTooLong, SseReader

__all__ = ("UpstreamReply",)

logger: FieldLogger = get_logger(__name__)

_SUCCESSOR_LIMIT_S: Final = 120.0
"""A request whose server is lost waits no longer than this until it is back."""
_MOST_BYTES: Final = 1 << 30
_MOST_WHOLE_BYTES: Final = 128 << 20
_RETRY_AFTER_S: Final = 2
_REFUSAL_LIMIT_S: Final = 5.0
"""A refusal holds its seat no longer than this, however slowly its words come."""
_OPERATORS: Final = frozenset({401, 403, 404})


EngineT = TypeVar("EngineT", bound=UpstreamEngine)


class UpstreamReply(Generic[EngineT]):
    """See `neuron_lib.harness.Reply`.

    A request that the server has not answered is sent again, over another connection or to the next life of the server,
    as long as nothing was given out. A server that refuses is not asked twice.
    """

    def __init__(
        self,
        task: Task,
        *,
        supervisor: EngineSupervisor[EngineT],
        admission: AdmissionController,
        seats: Seats,
        quarantine: Quarantine,
    ) -> None:
        """`admission` counts the requests of the model, `seats` has its waiting line, `quarantine` its suspects."""
        self._task = task
        self._supervisor = supervisor
        self._admission = admission
        self._seats = seats
        self._quarantine = quarantine
        self._held = ExitStack()
        self._number = 0  # from entering on
        self._call: UpstreamCall | None = None
        self._engine: EngineT | None = None  # that was sent this request
        self._exchange: Exchange | None = None
        self._stream = SseReader()
        self._reading: ReplyReading | None = None
        self._bytes = 0
        self._events: deque[GenerationEvent] = deque()
        self._finished: Finished | None = None
        self._failure: NeuronError | None = None
        self._has_started = False  # whether `Started` was given out
        self._has_given = False  # whether anything behind it was
        self._first_death: Death | None = None  # that this request was sent to
        self._take_event: Callable[[EventBeforeEnd], bool] | None = None  # see `forward`
        self._has_room = True

    @property
    def retried(self) -> bool:
        return self._first_death is not None

    @property
    def usage(self) -> Usage:
        if self._finished is not None:
            return self._finished.usage
        return Usage(prompt_tokens=0, completion_tokens=0) if self._reading is None else self._reading.usage

    # -------------------------------------------------------------------------------------------- what the reader does

    async def __aenter__(self) -> Self:
        try:
            await self._admit()
            await self._begin(self._supervisor.require_engine())
        except BaseException:
            await self._let_go()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if exc is None and self._finished is not None and self._exchange is not None:
                await self._exchange.finish()
        finally:
            await self._let_go()

    def forward(self, take: Callable[[EventBeforeEnd], bool]) -> None:
        """See `neuron_lib.harness.ForwardingReply`."""
        if not is_whole(self._task):
            self._take_event = take

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        while True:
            while self._events and (self._finished is not None or not is_whole(self._task)):
                event = self._events.popleft()
                self._has_started = True
                if isinstance(event, Started | Finished):
                    return event
                self._has_given = True
                if self._take_event is None or not self._has_room:
                    self._has_room = True
                    return event
                self._has_room = self._take_event(event)
            if self._failure is not None:
                raise self._failure
            if self._finished is not None:
                raise StopAsyncIteration
            try:
                await self._read()
            except NeuronError as error:
                self._failure = error  # what came before it is given out first

    # ------------------------------------------------------------------------------------------------- up to the start

    async def _admit(self) -> None:
        """Take the place and the seats of the request. Everything that can be refused here is refused."""
        task, facts = self._task, self._supervisor.latest.facts
        refuse_if_impossible(task, model_id=self._supervisor.model_id, capabilities=facts.capabilities, api=facts.api)
        self._refuse_if_suspect()
        engine = self._supervisor.require_engine()
        self._call = call_of(task, model=engine.client.address.model, api=facts.api)
        takes_seat = not isinstance(task, Tokenize | Detokenize)
        count = self._seat_count
        place = self._held.enter_context(
            self._admission.place(count, principal=task.principal, refuse=lambda _: self._seats.wake(self._number))
        )
        self._number = place.number
        self._quarantine.enter(self._number, task)
        if takes_seat:
            await self._seats.take(place, count)
            self._held.callback(self._seats.give_back, place.caller, count)

    async def _begin(self, engine: EngineT) -> None:
        """Send the request until the server has answered."""
        tries = 0
        while True:
            try:
                await self._send(engine)
            except Unreachable as error:
                pauses_s = engine.client.limits.pauses_s
                if await self._is_dead(engine, within_s=pauses_s[min(tries, len(pauses_s) - 1)]):
                    engine = await self._next_engine_after(engine)
                    continue
                if isinstance(error, Silent):  # it may be at work, and would do the same work twice
                    raise EngineFailed(f"{engine.client.address.shown}: {error}") from error
                if tries >= len(pauses_s):
                    raise self._not_reached(engine, error) from error
                tries += 1
            else:
                return

    async def _send(self, engine: EngineT) -> None:
        """Send the request to the server. Returns when the server has begun to answer, and raises what it refuses."""
        assert self._call is not None  # made on entering
        self._engine = engine
        self._stream, self._bytes = SseReader(), 0
        self._reading = self._new_reading()
        self._events.clear()
        engine.client.at_work.add(self._number)
        await engine.wake()
        exchange = self._exchange = await engine.client.send(
            "POST", self._call.path, self._call.body, headers=self._headers()
        )
        head = exchange.head
        if head.status == 200:
            self._require_content(engine)
            return
        body = b""  # the status says enough
        with suppress(ConnectionLost), anyio.move_on_after(_REFUSAL_LIMIT_S):
            body = engine.client.address.without_token(await exchange.read_whole())
        if head.status in _OPERATORS:
            engine.doubt()
        where = engine.client.address.shown
        raise refusal_of(head.status, head.headers, body, model_id=self._supervisor.model_id, where=where)

    def _require_content(self, engine: EngineT) -> None:
        kind = self._content_type
        if kind not in {"application/json", "text/event-stream"}:
            where, found = engine.client.address.shown, one_word(kind) or "none"
            raise UpstreamRefused(
                f"the server at {where} answered with the content type {found}, which is no answer of such an API",
                status=200,
            )

    @property
    def _content_type(self) -> str:
        assert self._exchange is not None  # it has answered
        return self._exchange.head.headers.get("content-type", "").partition(";")[0].strip().lower()

    def _headers(self) -> dict[str, str]:
        assert self._call is not None  # made on entering
        headers = {
            "accept": "text/event-stream, application/json" if self._call.is_stream else "application/json",
            HOPS_HEADER: str(self._task.hops + 1),
        }
        if self._task.request_id:
            headers["x-request-id"] = one_word(self._task.request_id)
        if self._call.shows_thinking:
            headers["x-include-thinking"] = "1"
        return headers

    def _new_reading(self) -> ReplyReading | None:
        task, call = self._task, self._call
        if call is None or not isinstance(task, Chat | Complete):
            return None
        return ReplyReading(
            choices=self._choices,
            prompt_tokens=guessed_prompt_tokens(call),
            token_hex=secrets.token_hex,
            stop=task.stop,
            include_thinking=isinstance(task, Chat) and task.include_thinking and not call.shows_thinking,
            cover=self._supervisor.latest.client.address.without_token,
        )

    # --------------------------------------------------------------------------------------------- from then on

    async def _read(self) -> None:
        """Read more of the answer. A connection that breaks is replaced if nothing was given out."""
        assert self._exchange is not None  # it has answered
        try:
            if self._reading is None or self._content_type == "application/json":
                await self._read_whole()
            else:
                await self._read_piece(self._reading)
        except ConnectionLost as lost:
            await self._begin_again(lost)

    async def _read_whole(self) -> None:
        assert self._exchange is not None  # it has answered
        body = await self._exchange.read_whole(most_bytes=MAX_ANSWER_BYTES)
        if self._reading is None:
            assert not isinstance(self._task, Chat | Complete)  # these have a reading
            self._take(events_of(self._task, body))
        else:
            self._take(self._reading.feed(body))
            self._take(self._reading.end())

    async def _read_piece(self, reading: ReplyReading) -> None:
        assert self._exchange is not None  # it has answered
        piece = await self._exchange.receive()
        try:
            for data in self._stream.end() if piece is None else self._stream.feed(piece):
                self._take(reading.feed(data))
        except EventTooLong as error:
            raise EngineFailed(f"the server's answer is no stream of a reply: {error}") from error
        if piece is None:
            if not (reading.is_done or reading.is_whole):  # a killed server ends an answer without a length so
                raise ConnectionLost("the server's answer ended before the reply did")
            self._take(reading.end())
            return
        self._bytes += len(piece)
        if self._bytes > (_MOST_WHOLE_BYTES if is_whole(self._task) else _MOST_BYTES):
            raise EngineFailed(f"the server sent more than {self._bytes} bytes for one reply")

    def _take(self, events: list[GenerationEvent]) -> None:
        for event in events:
            if isinstance(event, Started) and self._has_started:
                continue  # of a reply that was begun again
            if isinstance(event, Finished):
                self._finished = event
            self._events.append(event)

    async def _begin_again(self, lost: ConnectionLost) -> None:
        """Send the request again after its answer broke off, if the server is lost and nothing was given out."""
        engine = self._engine
        assert engine is not None  # it has answered
        is_dead = await self._is_dead(engine, within_s=engine.client.limits.news_s)
        if not is_dead:
            raise EngineFailed(f"the connection to {engine.client.address.shown} broke off: {lost}") from lost
        if self._has_given:
            raise EngineDead(self._supervisor.model_id, self._end_of(engine)) from lost
        await self._close_exchange()
        await self._begin(await self._next_engine_after(engine))

    # ---------------------------------------------------------------------------------------- when the server is lost

    async def _is_dead(self, engine: EngineT, *, within_s: float) -> bool:
        """Whether the server is lost, after `within_s` at most, in which this may turn out."""
        if self._supervisor.loss is None and engine.death is None:
            engine.doubt()
            with anyio.move_on_after(within_s):
                await engine.wait_dead()
        return self._supervisor.loss is not None or engine.death is not None

    async def _next_engine_after(self, engine: EngineT) -> EngineT:
        """Wait for the next life of the server. Raises `EngineDead` if none comes."""
        engine.client.at_work.discard(self._number)
        model_id = self._supervisor.model_id
        if self._supervisor.loss is not None:
            raise EngineDead(model_id, self._supervisor.loss)
        death = engine.death
        assert death is not None  # or the model is lost
        if self._number in death.requests:
            self._refuse_if_suspect()
            if self._first_death is not None:
                raise SuspectRequest(model_id, self._first_death.reason, death.reason)
            self._first_death = death
        fields = {"request_id": self._task.request_id, "model_id": model_id, "reason": self._end_of(engine)}
        logger.warning("server lost, the request is sent once more", extra=fields)
        with anyio.move_on_after(_SUCCESSOR_LIMIT_S):
            return await self._supervisor.successor(engine)
        raise EngineDead(model_id, f"{self._end_of(engine)}; it did not come back for {_SUCCESSOR_LIMIT_S:g} s")

    def _refuse_if_suspect(self) -> None:
        """Raise for a request that was alone in two servers that died, before it ends a third one."""
        deaths = self._quarantine.verdict(self._task, now_s=anyio.current_time())
        if deaths is not None:
            raise SuspectRequest(self._supervisor.model_id, *deaths)

    def _end_of(self, engine: EngineT) -> str:
        return self._supervisor.loss or ("its server is lost" if engine.death is None else engine.death.reason)

    def _not_reached(self, engine: EngineT, error: Unreachable) -> Overloaded:
        return Overloaded(
            f"the server at {engine.client.address.shown} cannot be reached: {error}",
            reason=OverloadReason.ENGINE_LOST,
            retry_after_s=_RETRY_AFTER_S,
            model_id=self._supervisor.model_id,
        )

    async def _close_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()

    async def _let_go(self) -> None:
        """Hang up, and free what is held for the request."""
        try:
            await self._close_exchange()
        finally:
            if self._engine is not None:
                self._engine.client.at_work.discard(self._number)
            # Whether a server still works on a request that was hung up is not known, so it cannot be blamed later.
            self._quarantine.leave(self._number, may_be_at_work=False)
            self._held.close()

    @property
    def _choices(self) -> int:
        task = self._task
        if isinstance(task, Complete):
            return task.choices * len(task.prompts)
        return task.choices if isinstance(task, Chat) else 1

    @property
    def _seat_count(self) -> int:
        """More prompts than there are seats take turns at the server; choices of one prompt do not."""
        takes_turns = isinstance(self._task, Complete) and self._task.more_prompts
        return min(self._choices, self._admission.rules.max_in_flight) if takes_turns else self._choices
