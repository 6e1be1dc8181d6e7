"""Spans for a daemon that answers probes before it has imported OpenTelemetry's SDK."""

from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskStatus

from neuron_lib import __version__
from neuron_lib.logs import get_logger
from neuron_service.collector import Collector
from neuron_service.request_log import RequestLog

if TYPE_CHECKING:
    from neuron_service.tracing import Tracing

__all__ = ("send_spans",)

logger = get_logger(__name__)

_LAST_SPANS_LIMIT_S: Final = 2.0
"""How long a collector may take the last spans, at the end of a stop."""


async def send_spans(
    request_log: RequestLog, collector: Collector | None, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Send the spans of all requests that end from now on, until it is cancelled. Without spans a service goes on.

    Returns at once if there is no collector.
    """
    if collector is None:
        task_status.started()
        return
    try:
        tracing = await anyio.to_thread.run_sync(_open, collector.endpoint)
    except Exception:  # the packages are broken, or a variable of OpenTelemetry has an impossible value
        logger.exception("`%s` asks for spans, and they cannot be sent", collector.source)
        task_status.started()
        return
    request_log.watch = tracing.take
    task_status.started()
    try:
        await anyio.sleep_forever()
    finally:
        request_log.watch = None
        with anyio.move_on_after(_LAST_SPANS_LIMIT_S, shield=True):
            await anyio.to_thread.run_sync(tracing.close, abandon_on_cancel=True)


def _open(endpoint: str | None) -> "Tracing":
    from neuron_service.tracing import Tracing  # noqa: PLC0415 - takes long, and needs the extra `otel`

    return Tracing(endpoint=endpoint, version=__version__)
