"""What answers have in common that tell of changes for as long as their client stays."""

from collections.abc import Awaitable, Callable
from typing import Final

from neuron_lib.logs import get_logger
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.exchange import exchange_of
from neuron_service.streaming import ClientStalled, EventStream, while_connected

__all__ = ("SHORTEST_INTERVAL_S", "feed")

logger = get_logger(__name__)

SHORTEST_INTERVAL_S: Final = 0.25
"""Between two chunks of a feed. What changes meanwhile is sent together."""
_SILENCE_LIMIT_S: Final = 15.0
"""A comment is sent after this long without an event. Without comments proxies close the connection."""


async def feed(
    scope: Scope, receive: Receive, send: Send, follow: Callable[[EventStream], Awaitable[None]], *, subject: str
) -> None:
    """Answer with what `follow` sends, until `follow` returns or the client leaves or reads no more.

    `subject` is what the client is told of, for the log.
    """
    stream = EventStream(send, silence_limit_s=_SILENCE_LIMIT_S)
    try:
        await while_connected(receive, lambda: follow(stream), beside=stream.watch)
    except ClientStalled:
        logger.info("client stopped reading, it is told of %s no more", subject, extra=exchange_of(scope).labels)
