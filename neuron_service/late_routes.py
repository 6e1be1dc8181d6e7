"""The routes of a daemon that answers probes before it has imported the web framework."""

from collections.abc import Callable

import anyio

from neuron_lib.errors import ShuttingDown
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.refusals import refuse

__all__ = ("LateRoutes",)


class LateRoutes:
    """An ASGI application that lets requests wait until `load` has built the real application.

    `close` ends the waiting. Requests are refused if the real application is not built by then.
    """

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        """`build` imports and makes the real application. It blocks."""
        self._build = build
        self._routes: ASGIApp | None = None
        self._settled = anyio.Event()

    async def load(self) -> None:
        """Build the real application in a thread, so that probes are answered meanwhile."""
        self._routes = await anyio.to_thread.run_sync(self._build)
        self._settled.set()

    def close(self) -> None:
        """Let no request wait any longer, because the daemon stops."""
        self._settled.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._settled.wait()
        if self._routes is None:
            await refuse(ShuttingDown(), scope, send)
        else:
            await self._routes(scope, receive, send)
