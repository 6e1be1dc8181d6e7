"""`/metrics`: what this host knows and has counted, for Prometheus."""

from functools import partial
from typing import Any

import anyio
from litestar import Request, get
from litestar.types import ASGIApp

from neuron_service.asgi import Receive, Scope, Send
from neuron_service.host_dependency import HostDependency
from neuron_service.metrics.snapshot import Snapshot, take_snapshot
from neuron_service.openapi import Operation, described_by

__all__ = ("show_metrics",)

_METRICS = Operation(
    method="get", path="/metrics", summary="Metrics, in the text format of Prometheus", answers={200: None}
)


@get(_METRICS.path, opt=described_by(_METRICS))
async def show_metrics(host: HostDependency, request: Request[Any, Any, Any]) -> ASGIApp:
    """The state is taken at once, and becomes text in a thread, because that takes long for many models."""
    accept = request.headers.get("accept", "")
    text, content_type = await anyio.to_thread.run_sync(_page, take_snapshot(host), accept)
    return partial(_answer, text, content_type)


def _page(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    from neuron_service.metrics.page import make_page  # noqa: PLC0415 - takes long, and nobody may ever scrape

    return make_page(snapshot, accept=accept)


async def _answer(text: bytes, content_type: str, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Litestar would add a second `charset` to the type."""
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": False})
