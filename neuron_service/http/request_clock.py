"""Which part of a request a connection receives, how many bytes that may be, and when it must be complete.

Decides and does nothing: the caller has the connection, the timer and the time.
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final, TypeAlias

from neuron_service.http.framing import RequestLine
from neuron_service.http.limits import ConnectionLimits

__all__ = ("Arrival", "Due", "RequestClock", "Stage", "TimedOut", "Verdict")


class Stage(Enum):
    """What a connection receives."""

    HEAD = auto()
    """The request line and the headers, or nothing yet."""
    BODY = auto()
    WHOLE = auto()
    """The request is complete, and the next one has not begun."""
    IGNORING = auto()
    """Bytes that arrive have no effect any more. The connection ends with an answer or a refusal that is under way."""


class Arrival(Enum):
    """What to do with bytes that have arrived."""

    READ = auto()
    """Parse them: they belong to a request."""
    SKIP = auto()
    """Do nothing."""
    AHEAD = auto()
    """The client did not wait for the answer to its previous request. Close the connection behind that answer."""


class Due(Enum):
    """What to do because time has passed."""

    NOTHING = auto()
    CLOSE = auto()
    """Close the connection without an answer."""
    CHECK_CLIENT = auto()
    """The client has stopped sending and waits for an answer. Find out whether it still exists."""


@dataclass(slots=True, frozen=True)
class TimedOut:
    """A request took longer than `limit_s` to arrive. Refuse it."""

    part: str
    limit_s: float


Verdict: TypeAlias = Due | TimedOut


_BLANK: Final = b"\r\n"


class RequestClock:
    """The requests of one connection as they arrive, one after the other.

    Times are seconds of one clock, the caller's. `is_answering` says each time whether a complete request waits for
    the end of its answer. Lives as long as the connection and belongs to it alone.
    """

    def __init__(self, limits: ConnectionLimits, *, now_s: float) -> None:
        """A client has connected. The time of its first request begins now."""
        self._limits = limits
        self._bytes = 0
        self.line = RequestLine()
        self.stage = Stage.HEAD
        self.deadline_s = now_s + limits.head_s
        """When to ask for a verdict. Infinite while nothing is awaited from the client."""

    # ----------------------------------------------------------------------------------------- what has arrived

    def receive(self, data: bytes, *, now_s: float, is_answering: bool) -> Arrival:
        """Take one read of the socket, before it is parsed."""
        if self.stage is Stage.WHOLE:
            if not data.strip(_BLANK):  # some clients end a body with an empty line that is no part of it
                return Arrival.SKIP
            if is_answering:
                self.ignore_ahead()
                return Arrival.AHEAD
            self._begin_head(now_s)
        if self.stage is Stage.IGNORING:
            return Arrival.SKIP
        self._bytes += len(data)
        if self.stage is Stage.HEAD:
            self.line.feed(data)
        return Arrival.READ

    def begin_request(self, *, now_s: float, is_answering: bool) -> Arrival:
        """The parser has met the first byte of a request. A read may have the end of one and the start of the next."""
        if self.stage is Stage.WHOLE:
            if is_answering:
                self.ignore_ahead()
                return Arrival.AHEAD
            self._begin_head(now_s)
            self._bytes = 1  # at least one; the read was counted for the previous request
        return Arrival.READ

    def end_head(self, *, now_s: float) -> None:
        """The headers are complete."""
        self._begin(Stage.BODY, now_s + self._limits.body_s)

    def add_body(self) -> None:
        """A piece of the body has arrived. The application bounds the body; only what is around it is counted here."""
        self._bytes = 0

    def end_body(self, *, now_s: float, is_answered: bool, is_last: bool) -> None:
        """The request is complete. `is_answered` if the answer was faster, `is_last` if no other request may follow.

        An early answer ended before the request was complete, so the time for the next request begins here.
        """
        idle_s = 0 if is_last else self._limits.idle_s
        self._begin(Stage.WHOLE, now_s + idle_s if is_answered else inf)

    def end_input(self, *, now_s: float) -> None:
        """The client sends no more, but it may still wait for its answer."""
        self.deadline_s = now_s + self._limits.half_closed_check_s

    def ignore_ahead(self) -> None:
        """The client did not wait for its answer. That answer is the last one, and it has no deadline."""
        self._begin(Stage.IGNORING, inf)

    def ignore_rest(self, *, now_s: float, for_s: float) -> None:
        """The last answer was sent. The connection stays open for `for_s` seconds, and arriving bytes are ignored."""
        self._begin(Stage.IGNORING, now_s + for_s)

    # ------------------------------------------------------------------------------------------- what follows

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun and is not complete."""
        return self.stage is Stage.BODY or (self.stage is Stage.HEAD and self._bytes > 0)

    @property
    def excess(self) -> str | None:
        """The part of the request that is longer than its limit. None if no part is."""
        if not self.is_receiving or self._bytes <= self._limits.head_bytes:
            return None
        what = "request line and the headers" if self.stage is Stage.HEAD else "trailers or the frame of a chunk"
        return f"The {what} exceed {self._limits.head_bytes} bytes."

    def judge(self, *, now_s: float, is_answering: bool, is_closing: bool) -> Verdict:
        """What to do at `now_s`. A deadline is reported once. `is_closing` if the transport is closing already."""
        if now_s < self.deadline_s:
            return Due.NOTHING
        self.deadline_s = inf
        if is_answering:
            self.deadline_s = now_s + self._limits.half_closed_check_s
            return Due.CHECK_CLIENT
        if is_closing:
            return Due.NOTHING
        if not self.is_receiving:
            return Due.CLOSE
        limits = self._limits
        return TimedOut("head", limits.head_s) if self.stage is Stage.HEAD else TimedOut("body", limits.body_s)

    # --------------------------------------------------------------------------------------------------- stages

    def _begin_head(self, now_s: float) -> None:
        self.line = RequestLine()
        self._begin(Stage.HEAD, now_s + self._limits.head_s)

    def _begin(self, stage: Stage, deadline_s: float) -> None:
        self.stage = stage
        self._bytes = 0
        self.deadline_s = deadline_s
