"""A client for an ASGI application that can do what real ones do: read bit by bit, stop reading, hang up at any moment.

Behaves towards the application as uvicorn does: nobody cancels it when the client goes, `receive` then reports a
disconnect, and what it sends goes nowhere. Runs on any anyio backend and opens no socket.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from tests.patience import PATIENCE_S

__all__ = ("AsgiClient", "Exchange", "Reply")

JSON = {"content-type": "application/json"}


@dataclass(slots=True, frozen=True)
class Reply:
    """A whole answer. `headers` has all headers but `x-request-id`, which differs from answer to answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str = field(default="", compare=False)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request under way. `error` is what the application raised, which a server would only log."""

    _messages: MemoryObjectReceiveStream[dict[str, Any]]
    _sink: MemoryObjectSendStream[dict[str, Any]]
    is_reading: bool = True
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    error: Exception | None = None
    returned: anyio.Event = field(default_factory=anyio.Event)
    _gone: anyio.Event = field(default_factory=anyio.Event)
    _complete: bool = False

    def hang_up(self) -> None:
        """Close the connection; the application hears of it when it listens."""
        self._gone.set()

    def is_silent(self) -> bool:
        """Whether everything that the application has sent so far has been read."""
        return not self._messages.statistics().current_buffer_used

    async def head(self) -> int:
        """Wait for the status line; returns the status."""
        if not self.status:
            message = await self._next()
            assert message["type"] == "http.response.start"
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            assert len(self.headers) == len(message["headers"]), "a header is there twice"
            self.request_id = self.headers.pop("x-request-id", "")
        return self.status

    async def chunk(self) -> bytes | None:
        """The next piece of the body that is not empty; None after the last one."""
        await self.head()
        while not self._complete:
            message = await self._next()
            assert message["type"] == "http.response.body"
            self._complete = not message.get("more_body", False)
            if message.get("body"):
                body: bytes = message["body"]
                return body
        return None

    async def rest(self) -> bytes:
        """Everything up to the end of the body."""
        chunks = []
        while (chunk := await self.chunk()) is not None:
            chunks.append(chunk)
        return b"".join(chunks)

    async def reply(self) -> Reply:
        """The whole answer."""
        body = await self.rest()
        return Reply(self.status, self.headers, body, self.request_id)

    async def _next(self) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE_S):
            return await self._messages.receive()


class AsgiClient:
    """Sends requests to `app` from an address. JSON is the content type unless `headers` say otherwise."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, address: str = "127.0.0.1") -> None:
        self._app = app
        self._address = address

    async def request(
        self, method: str, path: str, body: Any = b"", *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The whole answer to a request; a `body` that is not bytes is sent as JSON."""
        async with self.open(method, path, body, headers=headers) as exchange:
            return await exchange.reply()

    async def get(self, path: str) -> Reply:
        return await self.request("GET", path)

    async def post(self, path: str, body: Any = b"", *, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.request("POST", path, body, headers=headers)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Mapping[str, str] | None = None,
        more_body: bool = False,
    ) -> AsyncIterator[Exchange]:
        """A request under way; leaving the block hangs up and waits for the application to return.

        With `more_body` the body is announced as unfinished, and no more of it ever comes.
        """
        sink, messages = anyio.create_memory_object_stream[dict[str, Any]](float("inf"))
        exchange = Exchange(messages, sink)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = _scope(method, path, JSON if headers is None else headers, address=self._address)
        requests = [{"type": "http.request", "body": payload, "more_body": more_body}]

        async def receive() -> dict[str, Any]:
            await anyio.lowlevel.checkpoint()
            if requests:
                return requests.pop()
            await exchange._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if not exchange.is_reading:
                await exchange._gone.wait()
            if not exchange._gone.is_set():
                sink.send_nowait(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                exchange._gone.set()

        async def run() -> None:
            try:
                await self._app(scope, receive, send)
            except Exception as error:  # noqa: BLE001 - the test decides whether that is wrong
                exchange.error = error
            finally:
                exchange.returned.set()
                sink.close()

        with messages:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                yield exchange
                exchange.hang_up()
                with anyio.fail_after(PATIENCE_S):
                    await exchange.returned.wait()


def _scope(method: str, path: str, headers: Mapping[str, str], *, address: str) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": (address, 50000),
        "server": ("127.0.0.1", 13131),
        "extensions": {},
        "state": {},
    }
