"""One connection of a client: how its requests reach the application, and where that is bounded.

The way of a request is at the top. What bounds it is beside it: `RequestClock` decides, this module acts.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, assert_never

import httptools

from neuron_lib.errors import NeuronError, ShuttingDown
from neuron_lib.wire.http_errors import ErrorAnswer, MalformedHttp, RequestTimeout
from neuron_service.asgi import PEER
from neuron_service.dialects import id_headers
from neuron_service.exchange import Exchange, exchange_of
from neuron_service.http.alarm import Alarm
from neuron_service.http.bodies import BodyBudget, BodyCount
from neuron_service.http.cap import ConnectionCap, Welcome
from neuron_service.http.framing import fault_of_head
from neuron_service.http.last_words import CONTINUE, Refusals, to_bytes
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.request_clock import Arrival, Due, RequestClock, Stage, TimedOut
from neuron_service.http.tcp import bound_silence, has_gone, is_delivered, unix_peer
from neuron_service.http.uvicorn_parts import UvicornConnection
from neuron_service.refusals import log_refusal

__all__ = ("BoundedConnection",)

logger = logging.getLogger(__name__)

_SHORT_LAST_WORDS_S: Final = 0.5
"""Seconds in which a client that still sends when the host ends can read why its connection ends. Short, because the
end of the host waits for them.
"""


class _StopParsing(Exception):
    """Raised in a callback of the parser, to ignore the rest of this read."""


class BoundedConnection(UvicornConnection):
    """One connection, with deadlines, bounds, and one request at a time.

    uvicorn itself stops reading while a second request waits behind the first. Then it does not notice that the client
    has left, and makes the first answer to its end for no one. So bytes that arrive before an answer has ended are
    ignored, and the connection closes after that answer, as HTTP allows. Clients send the rest again.
    """

    def __init__(
        self,
        *args: Any,
        limits: ConnectionLimits,
        cap: ConnectionCap,
        refusals: Refusals,
        bodies: BodyBudget,
        take_place: Callable[[], object] = bool,
        **kwargs: Any,
    ) -> None:
        """`take_place` is called as soon as the connection is made. It frees the place of what was there before."""
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._cap = cap
        self._refusals = refusals
        self._welcome = Welcome.FULL
        self._peer: Mapping[str, int] | None = None
        self._take_place = take_place
        self._bodies = bodies
        self._body = BodyCount(bodies)
        self._clock = RequestClock(limits, now_s=self.loop.time())
        self._alarm = Alarm(self.loop, self._wake)
        self._stall: asyncio.TimerHandle | None = None
        self._goodbye: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ the way of a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A client has connected."""
        self._take_place()
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        bound_silence(sock, self._limits.taking_s)
        self._peer = unix_peer(sock)
        self._welcome = self._cap.welcome(self.open_connections)
        if self._welcome is Welcome.NONE:
            self._turn_away()
        self._alarm.set(self._clock.deadline_s)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have arrived. Parsing them calls the methods `on_…` below."""
        arrival = self._clock.receive(data, now_s=self.loop.time(), is_answering=self.is_answering)
        if self._is_read(arrival):
            self._parse(data)
            if (excess := self._clock.excess) is not None:
                self._refuse_malformed(excess)
            self._alarm.set(self._clock.deadline_s)

    def on_message_begin(self) -> None:
        """The first byte of a request was parsed."""
        arrival = self._clock.begin_request(now_s=self.loop.time(), is_answering=self.is_answering)
        if not self._is_read(arrival):
            raise _StopParsing
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was parsed, or a trailer, which has no effect."""
        if self._clock.stage is Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: the application begins to answer, in a task of its own."""
        if self.asks_for_upgrade:
            return  # the parser stops behind this head, and `_parse` begins again
        self._clock.end_head(now_s=self.loop.time())
        self._refuse_unless_answerable()
        self.start_cycle({} if self._peer is None else {PEER: self._peer}, end=self._end_answer)
        if self._welcome is not Welcome.FULL:
            self.make_last()

    def on_body(self, body: bytes) -> None:
        """A piece of the body was parsed."""
        self._clock.add_body()
        if not self.is_answered and not self._body.add(len(body)):  # behind an answer nothing is kept
            self._refuse(self._bodies.refusal())
            raise _StopParsing
        super().on_body(body)

    def forget_request(self) -> None:
        """The answer is written, or there will be none."""
        self._body.release()

    def on_message_complete(self) -> None:
        """The request is complete. Its answer ends the connection, or the next request follows."""
        if self.asks_for_upgrade:
            return
        self.end_body()
        self._clock.end_body(now_s=self.loop.time(), is_answered=self.is_answered, is_last=self.is_last)

    def _end_answer(self) -> None:
        """The last answer of this connection is written."""
        if self._clock.stage is Stage.WHOLE:
            self._close()
        else:
            self._linger()

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn has no use for the result
        """The client sends no more. Returns whether the connection stays open for the answer that is under way.

        A client that has vanished looks the same as one that only stopped sending, until something is sent to it. So
        it is sent an interim response: clients ignore that, and the system of a vanished client resets the connection.
        """
        if not self.is_answering or not self.transport.can_write_eof():  # TLS has no half-closed connections
            return False
        if not self.has_begun_answer:
            if not self.knows_interim_responses:
                return False
            self.transport.write(CONTINUE)
        self.make_last()
        self._clock.end_input(now_s=self.loop.time())
        self._alarm.set(self._clock.deadline_s)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, by either side."""
        super().connection_lost(exc)
        self.forget_request()
        self._alarm.cancel()
        for timer in (self._stall, self._goodbye):
            if timer is not None:
                timer.cancel()
        self._cap.note_closed(self.open_connections)

    # -------------------------------------------------------------------------------------------------------- bounds

    def _is_read(self, arrival: Arrival) -> bool:
        """Whether to parse the bytes that have arrived."""
        if arrival is Arrival.AHEAD:
            self.make_last()
        return arrival is Arrival.READ

    def _parse(self, data: bytes) -> None:
        try:
            self.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse(self.restart_without_upgrade() + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self._clock.stage is not Stage.IGNORING:
                self._refuse_malformed("The request is not valid HTTP.")

    def _refuse_unless_answerable(self) -> None:
        """Refuse a request whose body cannot be read or whose connection is beyond the limit. Raises `_StopParsing`."""
        fault = fault_of_head(self._clock.line, version=self.http_version, headers=self.request_headers)
        if fault is not None:
            self._refuse_malformed(fault)
            raise _StopParsing
        if not self._welcome.admits(self.method):
            self._end_with(self._refusals(self._cap.refusal(), self.path), self._exchange())
            raise _StopParsing

    def _wake(self) -> None:
        now_s = self.loop.time()
        verdict = self._clock.judge(now_s=now_s, is_answering=self.is_answering, is_closing=self.transport.is_closing())
        match verdict:
            case Due.NOTHING:
                pass
            case Due.CLOSE:
                self._close()
            case Due.CHECK_CLIENT:
                if has_gone(self.transport.get_extra_info("socket")):
                    self.transport.abort()
            case TimedOut(part, limit_s):
                self._refuse(RequestTimeout(f"the {part} of the request did not arrive within {limit_s:g} s"))
            case _:
                assert_never(verdict)
        self._alarm.set(self._clock.deadline_s)

    def pause_writing(self) -> None:
        """The write buffer is full. The client must read most of it in time. Reading a few bytes is not enough."""
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.taking_s, self._give_up)

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _give_up(self) -> None:
        logger.info("client stopped reading, its connection was given up")
        self.transport.abort()

    # ------------------------------------------------------------------------------------------------------ refusals

    def shutdown(self) -> None:
        """The host ends as soon as all answers have ended. A request that is still arriving is refused.

        uvicorn calls this for each connection.
        """
        if not self._clock.is_receiving:
            super().shutdown()
            if self.transport.is_closing():
                self._close()
            return
        self._refuse(ShuttingDown())
        self._clock.ignore_rest(now_s=self.loop.time(), for_s=min(self._limits.last_words_s, _SHORT_LAST_WORDS_S))
        self._alarm.set(self._clock.deadline_s)

    def _refuse_malformed(self, text: str) -> None:
        if self.is_answering:  # the request that is being answered was well-formed
            self._clock.ignore_ahead()
            self.make_last()
        else:
            self._refuse(MalformedHttp(text))

    def _refuse(self, error: NeuronError) -> None:
        """End the connection with the answer to `error`, or with the answer that the request already has."""
        if self.is_receiving_body and self.has_begun_answer:
            self._linger()
            return
        has_head = self._clock.stage is Stage.BODY
        exchange = self._exchange() if has_head else Exchange.of("-", "-", ())
        answer = self._refusals(error, self.path if has_head else "")
        log_refusal(error, answer, exchange)
        self._end_with(answer, exchange)

    def _exchange(self) -> Exchange:
        """That of the request whose head was parsed last."""
        if self.is_receiving_body:
            return exchange_of(self.answered_scope)
        return Exchange.of(self.method, self.path or "-", self.request_headers)

    def _end_with(self, answer: ErrorAnswer, exchange: Exchange) -> None:
        self.transport.write(to_bytes(answer, self._headers(exchange)))
        self._linger()

    def _headers(self, exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
        """The headers of each of the connection's own answers."""
        return *self.default_headers, *id_headers(exchange.request_id, exchange.path)

    def _turn_away(self) -> None:
        """End the connection at once, because there is no room for connections that wait for their client to close."""
        answer = self._refusals(self._cap.refusal(), "")
        self.transport.write(to_bytes(answer, self._headers(Exchange.of("-", "-", ()))))
        self._close()
        self._clock.ignore_ahead()

    def _close(self) -> None:
        """Close the connection as soon as the client has everything."""
        self.transport.close()
        if not self.transport.can_write_eof() and self._goodbye is None:
            self._goodbye = self.loop.call_later(self._limits.half_closed_check_s, self._wait_for_goodbye)

    def _wait_for_goodbye(self) -> None:
        """End a connection with TLS. TLS would wait until the client says goodbye, and clients that are idle do not."""
        if is_delivered(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self._goodbye = self.loop.call_later(self._limits.half_closed_check_s, self._wait_for_goodbye)

    def _linger(self) -> None:
        """Close the connection when the client does, or after a while.

        If it were closed at once, bytes that the client still sends would reset it, and the client would lose what it
        has not read yet.
        """
        self._clock.ignore_rest(now_s=self.loop.time(), for_s=self._limits.last_words_s)
        self.abandon_cycle()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()
        self._alarm.set(self._clock.deadline_s)
