"""How long a client may take, and how many bytes a request may have around its body."""

from dataclasses import dataclass
from typing import Final

from neuron_service.streaming import SEND_LIMIT_S

__all__ = ("IDLE_CONNECTION_LIMIT_S", "ConnectionLimits")

IDLE_CONNECTION_LIMIT_S: Final = 150
"""The gateway keeps idle connections for 90 s. We keep them longer, so that the gateway never writes into a connection
that we are closing.
"""


@dataclass(slots=True, frozen=True, kw_only=True)
class ConnectionLimits:
    """The limits of one connection. Times are in seconds."""

    head_s: float = 10.0
    """From the first byte of a request, or from the start of the connection, to the end of the headers."""
    body_s: float = 30.0
    """From the end of the headers to the end of the body."""
    idle_s: int = IDLE_CONNECTION_LIMIT_S
    """From the end of an answer to the first byte of the next request."""
    taking_s: float = SEND_LIMIT_S
    """How long a client may take to read what is in a full write buffer. Also, how long the client's system may leave
    everything that we sent unconfirmed.
    """
    last_words_s: float = 2.0
    """How long a connection stays open behind a refusal, so that a client that is still sending can read it."""
    half_closed_check_s: float = 0.1
    """Between two checks whether a client that has stopped sending still exists."""
    head_bytes: int = 64 << 10
    """The longest request line and headers together. Also the most bytes between two pieces of a body, and the longest
    trailers. One more read of the socket may come on top.
    """
