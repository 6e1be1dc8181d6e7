"""`/health`, `/healthz`, `/readyz` and `/version`, answered from memory and without the web framework.

A gateway and a service manager ask for these while the daemon starts, before the framework is imported.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.errors import NeuronError
from neuron_lib.logs import get_logger
from neuron_lib.types import Health
from neuron_lib.wire.http_errors import UnknownMethod
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.exchange import exchange_of
from neuron_service.host import Host
from neuron_service.refusals import answer_to_bug, refuse, send_error, send_json
from neuron_service.status import Liveness, Readiness
from neuron_service.version import Version

__all__ = ("PROBES", "Probe", "Probes")

logger = get_logger(__name__)

_Ask: TypeAlias = Callable[[Host], Awaitable[tuple[int, Struct]]]


class Probe(NamedTuple):
    """What is answered to `GET` of one path: a status of `statuses`, and a body of the type `body`."""

    ask: _Ask
    body: type[Struct]
    summary: str
    statuses: tuple[int, ...] = (200,)


class Probes:
    """An ASGI application that answers the probes itself and passes every other path on to `routes`."""

    def __init__(self, host: Host, routes: ASGIApp) -> None:
        self._host = host
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        probe = PROBES.get(scope["path"])
        if probe is None:
            await self._routes(scope, receive, send)
        elif scope["method"] != "GET":
            await refuse(UnknownMethod(scope["method"], allow="GET, HEAD"), scope, send)
        else:
            await self._answer(probe, scope, send)

    async def _answer(self, probe: Probe, scope: Scope, send: Send) -> None:
        try:
            status, body = await probe.ask(self._host)
        except NeuronError as error:
            await refuse(error, scope, send)
        except Exception as bug:
            exchange = exchange_of(scope)
            logger.exception("bug in a probe", extra=exchange.labels | exchange.target)
            await send_error(send, answer_to_bug(bug, scope))
        else:
            await send_json(send, msgspec.json.encode(body), status=status)


async def _health(host: Host) -> tuple[int, Struct]:
    """How the host is. Always 200, and always at once."""
    return 200, host.health()


async def _liveness(host: Host) -> tuple[int, Struct]:
    """Whether the daemon makes progress. A daemon that makes none should be restarted."""
    is_moving = host.is_moving()
    return 200 if is_moving else 503, Liveness(status="ok" if is_moving else "stuck")


async def _readiness(host: Host) -> tuple[int, Struct]:
    """Whether requests should be sent to this host now."""
    reason = host.why_not_ready()
    body = Readiness(status="not_ready" if reason else "ready", reason=reason, detail=host.status_line())
    return 503 if reason else 200, body


async def _version(host: Host) -> tuple[int, Struct]:
    """What is running. Waits until git has named the commit, which has a time limit."""
    return 200, await host.current_version()


PROBES: Final[dict[str, Probe]] = {
    "/health": Probe(_health, Health, "How the host is"),
    "/healthz": Probe(_liveness, Liveness, "Whether the process makes progress", (200, 503)),
    "/readyz": Probe(_readiness, Readiness, "Whether requests should be sent here now", (200, 503)),
    "/version": Probe(_version, Version, "What is running"),
}
