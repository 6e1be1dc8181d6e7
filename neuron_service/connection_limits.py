"""What a connection may take: time and space."""

from dataclasses import dataclass
from typing import Final

from neuron_service.streaming import SEND_LIMIT_S

__all__ = ("IDLE_CONNECTION_LIMIT_S", "ConnectionLimits")

IDLE_CONNECTION_LIMIT_S: Final = 150
"""Longer than the 90 s for which the gateway keeps idle connections, so that it never writes into one we close."""


@dataclass(slots=True, frozen=True, kw_only=True)
class ConnectionLimits:
    """How long a client may take, in seconds, and how much it may say."""

    head_s: float = 10.0
    """From the first byte of a request, or from the connection's begin, to the end of the headers."""
    body_s: float = 30.0
    """From there to the end of the body."""
    idle_s: int = IDLE_CONNECTION_LIMIT_S
    """Between an answer and the next request."""
    taking_s: float = SEND_LIMIT_S
    """To take what is in the buffer when that is full; and without its system confirming anything that we sent."""
    last_words_s: float = 2.0
    """To read why a connection ends, while it may still be sending."""
    half_closed_check_s: float = 0.1
    """Between two looks whether a client that sends no more is still there."""
    head_bytes: int = 64 << 10
    """The request line and the headers together, give or take one read of the socket; and whatever comes between two
    pieces of a body or behind the last.
    """
