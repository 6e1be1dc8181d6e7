"""One connection of uvicorn's, with bounds: how long a request may take to arrive, how large its head may be, how long
a client may take to read, how many clients there are. Refuses in our envelope what never becomes a request.
"""

import asyncio
import logging
import socket
from collections.abc import Mapping
from enum import Enum, auto
from math import inf
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from neuron_lib.errors import NeuronError, Overloaded, OverloadReason, ShuttingDown
from neuron_lib.shown import clip
from neuron_lib.wire.http_errors import ErrorAnswer, MalformedHttp, RequestTimeout
from neuron_service.connection_cap import ConnectionCap, Welcome
from neuron_service.connection_limits import ConnectionLimits
from neuron_service.framing import CycleTransport, RequestLine, UntilClose, unknown_transfer_coding
from neuron_service.refusals import log_refusal, render

__all__ = ("BoundedConnection",)

logger = logging.getLogger(__name__)

_TCP_CLOSED: Final = 7  # TCP_CLOSE of linux/tcp_states.h, the first byte of TCP_INFO
_KEEP_ALIVE_PROBES: Final = 3
_SHORT_LAST_WORDS_S: Final = 0.5
"""To read why a connection ends when the host does, which must not take much longer than without any connection."""
_PROBE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_MANY_RETRY_AFTER_S: Final = 5
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class _Stage(Enum):
    """What a connection receives. Between two requests it has received a whole one."""

    HEAD = auto()
    BODY = auto()
    WHOLE = auto()
    DEAF = auto()
    """Nothing that comes counts any more: the connection ends with the answer that is under way."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, with deadlines and with one request at a time.

    uvicorn stops reading while a second request waits behind the first, and then never learns that the client has
    gone: the first reply would be generated to its end for nobody. So what is sent ahead of an answer is ignored, and
    the connection closed behind that answer, as HTTP allows; clients send the rest again.

    A client that only stops sending gets its answer. Since one that has gone looks the same until something is sent
    to it, it is sent an interim response, which every client ignores and the system of a vanished one resets.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, cap: ConnectionCap, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._cap = cap
        self._welcome = Welcome.FULL
        self._stage = _Stage.HEAD
        self._bytes_around_body = 0
        self._request_line = RequestLine()
        self._wants_upgrade = False
        self._deadline_s = inf
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._bound_silence(transport.get_extra_info("socket"))
        self._welcome = self._cap.welcome(len(self.connections))
        if self._welcome is Welcome.NONE:
            transport.write(self._as_bytes(self._too_many()))
            transport.close()
            self._stage = _Stage.DEAF
        self._set_deadline(self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        self._cap.note_closed(len(self.connections))

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn has no use for the result
        """The client sends no more; returns whether it may still read."""
        if not self._is_answering:
            return False
        if not self.cycle.response_started:
            if self.cycle.scope["http_version"] != "1.1":  # older ones know no interim responses
                return False
            self.transport.write(_PROBE)
        self.cycle.keep_alive = False
        self._set_deadline(self._limits.half_closed_check_s)
        return True

    def pause_writing(self) -> None:
        """The buffer is full. It must have been taken in time, or most of it: a drop now and then is not reading."""
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.taking_s, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _give_up(self) -> None:
        logger.info("client stopped reading, its connection was given up")
        self.transport.abort()

    def _bound_silence(self, sock: socket.socket) -> None:
        """Have the system end a connection whose other end confirms nothing, whether data or a mere sign of life."""
        if sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        taking_s = self._limits.taking_s
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(taking_s * 1000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(taking_s / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(taking_s / 2 / _KEEP_ALIVE_PROBES)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_ALIVE_PROBES)

    # ------------------------------------------------------------------------------------------------- receiving

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request is here whose answer is not."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not (cycle.response_complete or cycle.more_body or cycle.disconnected)

    @property
    def _is_silent(self) -> bool:
        """Whether the next request has not begun."""
        return self._stage is _Stage.HEAD and not self._bytes_around_body

    def data_received(self, data: bytes) -> None:
        if self._stage is _Stage.WHOLE:
            if not data.strip(b"\r\n"):  # some clients end a body with an empty line that is no part of it
                return
            if self._is_answering:
                self._ignore_the_rest()
            else:
                self._begin(_Stage.HEAD)
        if self._stage is _Stage.DEAF:
            return
        self._unset_keepalive_if_required()
        self._bytes_around_body += len(data)
        if self._stage is _Stage.HEAD:
            self._request_line.feed(data)
        self._parse(data)
        if self._bytes_around_body > self._limits.head_bytes and self._stage in {_Stage.HEAD, _Stage.BODY}:
            what = "request line and the headers" if self._stage is _Stage.HEAD else "trailers or the frame of a chunk"
            self.send_400_response(f"The {what} exceed {self._limits.head_bytes} bytes.")
        self._keep_time()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if self._stage is not _Stage.DEAF:
                self.send_400_response("The request is not valid HTTP.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._stage is not _Stage.DEAF:
                self._parse_without_upgrade(data[upgrade.args[0] :])

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it had not asked for another protocol, which it must put up with: the parser
        does not read the body of one that asks. Java's own client asks for HTTP/2 each time.
        """
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.lower().split(b",")]
                head.append(b"connection: " + b", ".join(option for option in options if option == b"close"))
            elif name != b"upgrade":
                head.append(b"%s: %s" % (name, value))
        self._wants_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([*head, b"", rest]))

    def on_message_begin(self) -> None:
        if self._stage is _Stage.WHOLE:  # two requests in one read
            if self._is_answering:
                self._ignore_the_rest()
            else:
                self._begin(_Stage.HEAD)
                self._bytes_around_body = 1  # or more: the next one has begun
        if self._stage is not _Stage.DEAF:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._stage is not _Stage.DEAF:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is _Stage.HEAD:  # nobody reads those behind a body
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._wants_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._wants_upgrade or self._stage is _Stage.DEAF:
            return
        self._begin(_Stage.BODY)
        version = self.parser.get_http_version()
        if version not in _VERSIONS or self._request_line.names_other_protocol:
            self.send_400_response("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
            return
        if (coding := unknown_transfer_coding(self.headers, version=version)) is not None:
            self.send_400_response(f"The body is sent as {clip(coding)!r}, and only chunks of HTTP/1.1 are understood.")
            return
        if self._welcome is not Welcome.FULL and self.parser.get_method().decode("ascii") not in _BODILESS:
            self._end_with(self._too_many())
            return
        if version == "1.0":  # it knows no interim responses
            self.expect_100_continue = False
        super().on_headers_complete()
        self.cycle.transport = CycleTransport(self.transport, self._end_cycle)
        if version == "1.0":
            self.cycle.send = UntilClose(self.cycle)  # type: ignore[method-assign] # uvicorn has no place for it
        if self._welcome is not Welcome.FULL:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self._stage is not _Stage.DEAF:
            self._bytes_around_body = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._wants_upgrade and self._stage is not _Stage.DEAF:
            super().on_message_complete()
            self._begin(_Stage.WHOLE)
            is_last = not self.parser.should_keep_alive()  # trailers may say so as well
            if is_last:
                self.cycle.keep_alive = False
            if self.cycle.response_complete:  # uvicorn does not expect an answer that is faster than the body
                self.cycle.more_body = False
                self._set_deadline(0 if is_last else self._limits.idle_s)

    def _begin(self, stage: _Stage) -> None:
        self._stage = stage
        self._bytes_around_body = 0
        match stage:
            case _Stage.HEAD:
                self._request_line.clear()
                self._deadline_s = self.loop.time() + self._limits.head_s
            case _Stage.BODY:
                self._deadline_s = self.loop.time() + self._limits.body_s
            case _:
                self._deadline_s = inf

    # ------------------------------------------------------------------------------------------------------ time

    def _set_deadline(self, delay_s: float) -> None:
        self._deadline_s = self.loop.time() + delay_s
        self._keep_time()

    def _keep_time(self) -> None:
        """See to it that the timer wakes us by the deadline. It may wake us earlier: most requests are whole long
        before, and starting no timer for them costs less than one too many for the connection.
        """
        if self._deadline_s == inf:
            return
        if self._timer is not None:
            if self._timer.when() <= self._deadline_s:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline_s, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._deadline_s <= self.loop.time():
            self._deadline_s = inf
            self._expire()
        self._keep_time()

    def _expire(self) -> None:
        if self._is_answering:
            self._look_after_half_closed()
        elif self.transport.is_closing():
            return  # what is left of the answer is on its way
        elif self._stage in {_Stage.DEAF, _Stage.WHOLE} or self._is_silent:
            self.transport.close()
        else:
            limits = self._limits
            what, limit_s = ("head", limits.head_s) if self._stage is _Stage.HEAD else ("body", limits.body_s)
            self._refuse(RequestTimeout(f"the {what} of the request did not arrive within {limit_s:g} s"))

    def _look_after_half_closed(self) -> None:
        info: bytes = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        if info[0] == _TCP_CLOSED:
            self.transport.abort()
        else:
            self._deadline_s = self.loop.time() + self._limits.half_closed_check_s

    # -------------------------------------------------------------------------------------------------- refusing

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, in our envelope instead of uvicorn's plain text."""
        if self._is_answering:
            self._ignore_the_rest()
        else:
            self._refuse(MalformedHttp(msg))

    def shutdown(self) -> None:
        """The host ends as soon as all answers have: whatever is still arriving is refused."""
        if self._stage not in {_Stage.HEAD, _Stage.BODY} or self._is_silent:
            super().shutdown()
        else:
            self._refuse(ShuttingDown())
            self._set_deadline(min(self._limits.last_words_s, _SHORT_LAST_WORDS_S))

    def _refuse(self, error: NeuronError) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.more_body and cycle.response_started:
            self._linger()  # its answer came early, and another one would be one too many
            return
        scope: Mapping[str, Any] = self.scope if self._stage is _Stage.BODY else {}
        answer = render(error, scope.get("path", ""))
        log_refusal(error, answer, method=scope.get("method", "-"), path=scope.get("path", "-"))
        self._end_with(answer)

    def _too_many(self) -> ErrorAnswer:
        """Not logged for each: the cap does that."""
        limit = self._cap.limit
        text = f"this host serves {limit} connections at a time, and all are taken"
        error = Overloaded(text, reason=OverloadReason.QUEUE_FULL, retry_after_s=_TOO_MANY_RETRY_AFTER_S)
        return render(error, "")

    def _ignore_the_rest(self) -> None:
        """Close behind the answer that is under way."""
        self.cycle.keep_alive = False
        self._stage = _Stage.DEAF

    def _end_cycle(self) -> None:
        if self._stage is _Stage.WHOLE:
            self.transport.close()
        else:
            self._linger()

    def _end_with(self, answer: ErrorAnswer) -> None:
        """Send `answer` as the last thing on this connection."""
        self.transport.write(self._as_bytes(answer))
        self._linger()

    def _linger(self) -> None:
        """Close the connection as soon as the client does, or after a while: were it closed at once, what the client
        still sends would reset it, and what the client has not read yet be lost.
        """
        self._stage = _Stage.DEAF
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.waiting_for_100_continue = False
            cycle.disconnected = True  # its application may wait for a body that never comes
            cycle.message_event.set()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(self._limits.last_words_s)

    def _as_bytes(self, answer: ErrorAnswer) -> bytes:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
            *((name.encode(), value.encode()) for name, value in answer.headers),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        return STATUS_LINE[answer.status] + head + b"\r\n" + answer.body
