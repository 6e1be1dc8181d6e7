"""What answers have in common that tell of changes for as long as their client stays."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from neuron_lib.logs import get_logger
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.exchange import exchange_of
from neuron_service.streaming import ClientStalled, EventStream, while_connected

__all__ = ("SHORTEST_INTERVAL_S", "WaitRefused", "feed", "never_refused")

logger = get_logger(__name__)

SHORTEST_INTERVAL_S: Final = 0.25
"""Between two chunks of a feed. What changes meanwhile is sent together."""
_SILENCE_LIMIT_S: Final = 15.0
"""A comment is sent after this long without an event. Without comments proxies close the connection."""

WaitRefused: TypeAlias = Callable[[Scope], Awaitable[None]]
"""Waits until the request with this scope would be refused."""


async def never_refused(_scope: Scope) -> None:
    """For a service that lets everybody in."""
    await anyio.sleep_forever()


async def feed(
    scope: Scope,
    receive: Receive,
    send: Send,
    follow: Callable[[EventStream], Awaitable[None]],
    *,
    subject: str,
    wait_refused: WaitRefused = never_refused,
) -> None:
    """Answer with what `follow` sends, until `follow` returns or the client leaves or reads no more.

    `subject` is what the client is told of, for the log. The answer also ends when `wait_refused` returns: when the
    client is let in no more, because its key was deleted or has lost a scope.
    """
    stream = EventStream(send, silence_limit_s=_SILENCE_LIMIT_S)

    async def answer() -> None:
        await stream.open()
        async with anyio.create_task_group() as tasks:

            async def end_when_refused() -> None:
                await wait_refused(scope)
                tasks.cancel_scope.cancel()

            tasks.start_soon(end_when_refused)
            await follow(stream)
            tasks.cancel_scope.cancel()
        await stream.send(b"", more=False)

    try:
        await while_connected(receive, answer, beside=stream.watch)
    except ClientStalled:
        logger.info("client stopped reading, it is told of %s no more", subject, extra=exchange_of(scope).labels)
