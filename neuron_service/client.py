"""The other end of a connection: how long it is there, how long it may take to read."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio

from neuron_lib.errors import first_leaf
from neuron_service.asgi import Receive

__all__ = ("SEND_LIMIT_S", "while_connected")

SEND_LIMIT_S: Final = 60.0
"""A client that has taken nothing for this long is treated as gone."""

Result = TypeVar("Result")


async def while_connected(
    receive: Receive,
    work: Callable[[], Awaitable[Result]],
    *,
    beside: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> Result | None:
    """Do `work`, but only as long as the client stays; None if it left first. `beside` runs for just as long, and what
    it raises ends the work.

    Needed around every long answer: no ASGI server cancels a handler whose client has gone. The request's body must
    have been read, because this eats what `receive` still has to say.
    """
    result: list[Result] = []
    try:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            if beside is not None:
                tasks.start_soon(beside)
            result.append(await work())
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        leaf = first_leaf(group)
        raise leaf from leaf.__cause__
    return result[0] if result else None
