"""The routes of a process that answers before it has loaded them."""

from collections.abc import Callable

import anyio

from neuron_lib.errors import ShuttingDown
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.refusals import refuse

__all__ = ("LateRoutes",)


class LateRoutes:
    """An ASGI application whose requests wait until `load` has loaded the real one. After `close` they are refused."""

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        """`build` imports and makes the application; it blocks."""
        self._build = build
        self._routes: ASGIApp | None = None
        self._settled = anyio.Event()

    async def load(self) -> None:
        """Build the application in a thread, so that probes are answered meanwhile."""
        self._routes = await anyio.to_thread.run_sync(self._build)
        self._settled.set()

    def close(self) -> None:
        """Let nobody wait any longer: the process ends."""
        self._settled.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._settled.wait()
        if self._routes is None:
            await refuse(ShuttingDown(), scope, send)
        else:
            await self._routes(scope, receive, send)
