"""How many connections there may be: derived from the file descriptors, and logged when the limit is reached."""

import resource
from enum import Enum, auto
from typing import Final, Self

from neuron_lib.errors import Overloaded, OverloadReason
from neuron_lib.logs import get_logger
from neuron_service.asgi import READING_METHODS

__all__ = ("ConnectionCap", "Welcome", "raise_descriptor_limit")

logger = get_logger(__name__)

_MOST_DESCRIPTORS: Final = 65536
_MOST_CONNECTIONS: Final = 4096
_MOST_COSTLY_CONNECTIONS: Final = 1024
_RESERVED_DESCRIPTORS: Final = 256
"""Descriptors for the listener, engines, downloads, files and the log. These must work however many clients come."""
_RETRY_AFTER_S: Final = 5


class Welcome(Enum):
    """How a new connection is treated."""

    FULL = auto()
    QUESTIONS = auto()
    """Requests without a body, such as for `/health`, are answered. Others are refused. One request per connection."""
    NONE = auto()

    def admits(self, method: str) -> bool:
        """Whether a request with this method is answered."""
        return self is Welcome.FULL or (self is Welcome.QUESTIONS and method in READING_METHODS)


class ConnectionCap:
    """Judges new connections by how many are open. A connection that was accepted stays.

    Beyond `limit` there are `spare` places. On these, refused clients get a refusal, and clients that ask for the
    health of the host get an answer.
    """

    def __init__(self, limit: int, *, spare: int) -> None:
        self.limit = limit
        self.spare = spare
        self._refused_connections = 0

    @classmethod
    def for_descriptors(cls, descriptors: int, *, are_costly: bool = False) -> Self:
        """The cap for a process with that many file descriptors, so that it does not run out of them.

        `are_costly` if each connection takes the memory of one with TLS, a quarter of a MiB and more.
        """
        most = _MOST_COSTLY_CONNECTIONS if are_costly else _MOST_CONNECTIONS
        places = max(descriptors - _RESERVED_DESCRIPTORS, descriptors // 2)
        limit = min(most, places * 3 // 4)
        return cls(limit, spare=min(most // 4, places - limit))

    def has_place(self, open_connections: int) -> bool:
        """Whether the newest of `open_connections` can stay at all, at least for a refusal."""
        return open_connections <= self.limit + self.spare

    def welcome(self, open_connections: int) -> Welcome:
        """Judge the newest of `open_connections`. The first one beyond the limit is logged, the others are counted."""
        if open_connections <= self.limit:
            return Welcome.FULL
        if not self._refused_connections:
            logger.warning(
                "too many connections, new ones are refused",
                extra={"open_connections": open_connections, "max_connections": self.limit},
            )
        self._refused_connections += 1
        return Welcome.QUESTIONS if self.has_place(open_connections) else Welcome.NONE

    def refusal(self) -> Overloaded:
        """The error for a client beyond the limit. The caller must not log it, because `welcome` has logged it."""
        text = f"this host serves {self.limit} connections at a time, and all are taken"
        return Overloaded(text, reason=OverloadReason.QUEUE_FULL, retry_after_s=_RETRY_AFTER_S)

    def note_closed(self, open_connections: int) -> None:
        """A connection has ended and `open_connections` are left.

        The burst ends when an eighth of the limit is free again. If it ended at the limit itself, each newcomer would
        be a burst of its own in the log.
        """
        if self._refused_connections and open_connections <= self.limit * 7 // 8:
            logger.info(
                "connections are welcome again",
                extra={"open_connections": open_connections, "refused_connections": self._refused_connections},
            )
            self._refused_connections = 0


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, at most 65,536; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
