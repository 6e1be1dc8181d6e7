"""The life of the process: bind, answer, look at the hardware, load the default models, drain, end."""

import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from neuron_lib import ActivationTracker, Registry, __version__, load_default_models
from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.config import Config
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.look import look_until_seen, tool_limit_s
from neuron_lib.discovery.probe import discover
from neuron_lib.discovery.tool import run_tool
from neuron_lib.errors import ShuttingDown
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.types import Discovery
from neuron_service.access.entrance import Entrance, EntranceRules
from neuron_service.access.hosts import ANY, AccessRules
from neuron_service.asgi import ASGIApp
from neuron_service.backends import BACKENDS
from neuron_service.capacity import capacity_bytes, host_memory_bytes
from neuron_service.collector import Collector
from neuron_service.host import Host
from neuron_service.http.cap import ConnectionCap, raise_descriptor_limit
from neuron_service.http.listening import bind
from neuron_service.http.serving import http_server
from neuron_service.http_rules import HttpRules
from neuron_service.late_routes import LateRoutes
from neuron_service.loop_lag import measure_lag
from neuron_service.probes import Probes
from neuron_service.request_log import RequestLog
from neuron_service.socket_reader import read_socket
from neuron_service.stop_signals import Meaning, StopSignals
from neuron_service.systemd import Notifier, extend_timeout, feed_watchdog, keep_status
from neuron_service.tallies import Tallies
from neuron_service.version import Version

if TYPE_CHECKING:
    from neuron_service.tracing import Tracing

__all__ = ("bind", "serve")

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_ANSWERS_LIMIT_S: Final = 5
"""How long answers that are still on their way may take once everything has been unloaded."""
_LAST_SPANS_LIMIT_S: Final = 2.0
"""How long a collector may take the last spans, at the end of a stop."""
_FIRST_ANSWER_TURNS: Final = 10
"""Turns of the event loop before imports begin. A probe that waits in the backlog is answered in these turns."""
_HARDWARE_PATIENCE_S: Final = 20.0
"""How long loads wait for GPUs on a host with a tool that should see some. A slow driver is asked twice meanwhile."""
_UNLOAD_LIMIT_S: Final = 20.0
"""How long the unloading of all models may take together. After that the daemon ends without waiting for them, because
a process that hangs in a driver cannot be ended."""


async def serve(
    config: Config,
    *,
    sock: socket.socket,
    version: Callable[[], Version],
    entrance: EntranceRules | None = None,
    environ: Mapping[str, str],
    notifier: Notifier,
    watchdog_s: float | None,
    check: Callable[[], None] | None = None,
    backends: Sequence[Backend[Any]] = BACKENDS,
    collector: Collector | None = None,
) -> None:
    """Serve on `sock` until SIGTERM or SIGINT, then drain and return. A later signal ends the process at once.

    `entrance` says who is let in; without it, everybody is. systemd is told by `notifier` what happens. If `watchdog_s`
    is given, systemd is also told in this interval that the daemon is alive. `version` and `check` block, and are
    called in threads once the host answers. `backends` are those that the configuration may name; those that it names
    are offered. The spans of requests are sent to `collector`, if there is one.
    """
    address, port = sock.getsockname()[:2]
    monitor, tallies = DeviceMonitor(), Tallies()
    host_bytes = host_memory_bytes(config.residency.memory_mb)

    async def require_hardware() -> None:
        await host.require_hardware()

    registry = Registry(
        endpoint_url=f"http://localhost:{port}",
        drain_timeout_s=config.drain_timeout_secs,
        wait_for_load_s=config.wait_for_load_secs,
        residency=ResidencyRules.from_config(config),
        capacity=lambda: capacity_bytes(host_bytes, host.gpu_memory_mb()),
        before_load=require_hardware,
        on_unloaded=monitor.refresh,
        on_reply=tallies.take_reply,
        on_load=tallies.take_load,
    )
    tracker = ActivationTracker(config.default_models)
    host = Host(
        harnesses=tuple(entry.name for entry in config.harnesses),
        registry=registry,
        tracker=tracker,
        monitor=monitor,
        model_aliases=config.http.model_aliases,
        tallies=tallies,
        entrance=Entrance(entrance or EntranceRules()),
    )
    routes = LateRoutes(partial(_build_routes, host))
    request_log = RequestLog(
        HttpRules(
            Probes(host, routes),
            access=AccessRules.for_listener(
                sock,
                own_name=config.host,
                allowed_hosts=config.allowed_hosts,
                allowed_origins=(*config.allowed_origins, *config.http.cors_origins),
            ),
            entrance=host.entrance,
            cors_origins=config.http.cors_origins,
        ),
        on_answer=tallies.take_answer,
    )
    server = http_server(
        request_log,
        cap=ConnectionCap.for_descriptors(raise_descriptor_limit()),
        shutdown_limit_s=_LAST_ANSWERS_LIMIT_S,
    )
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()
            tasks.start_soon(_obey, signals, stop)
            tasks.start_soon(server.run_on, sock)
            await server.accepting.wait()
            for _ in range(_FIRST_ANSWER_TURNS):
                await checkpoint()
            logger.info("listening on http://%s:%s", address, port)
            _say_who_is_let_in(host.entrance.rules)
            if ANY in config.http.cors_origins:
                logger.warning("`http.cors_origins` has *: any web page in a browser here may use this service")
            tasks.start_soon(keep_status, notifier, host.status_line)
            tasks.start_soon(measure_lag, tallies.loop_lag_s)
            if watchdog_s is not None:
                tasks.start_soon(feed_watchdog, notifier, watchdog_s, host.is_moving)
            if collector is not None:
                await tasks.start(_send_spans, request_log, collector)
            async with registry:
                async with anyio.create_task_group() as background:
                    background.start_soon(_activate, host, config, environ, backends, routes.load)
                    tasks.start_soon(_call_in_threads, host, version, check)
                    background.start_soon(monitor.run)
                    background.start_soon(host.host_monitor.run)
                    await stop.wait()
                    host.start_draining()
                    tasks.start_soon(_end_without_unloading, registry, _stop_limit_s(config.drain_timeout_secs))
                    notifier.send("STOPPING=1", status=host.status_line())
                    tasks.start_soon(extend_timeout, notifier)
                    background.cancel_scope.cancel()
                routes.close()
                with anyio.move_on_after(config.drain_timeout_secs):
                    await registry.wait_idle()
            server.should_exit = True
            await server.stopped.wait()
            tasks.cancel_scope.cancel()
    logger.info("shutdown complete")


async def _send_spans(
    request_log: RequestLog, collector: Collector, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Send the spans of all requests that end from now on, until it is cancelled. Without spans a service goes on."""
    try:
        tracing = await anyio.to_thread.run_sync(_open_tracing, collector.endpoint)
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


def _open_tracing(endpoint: str | None) -> "Tracing":
    from neuron_service.tracing import Tracing  # noqa: PLC0415 - takes long, and needs the extra `otel`

    return Tracing(endpoint=endpoint, version=__version__)


def _say_who_is_let_in(rules: EntranceRules) -> None:
    logger.info("%s", rules.in_words())
    if rules.trusted is not None and rules.trusted.has_every_address:
        logger.warning("`trusted_networks` has every address: whoever reaches this host may use it without a key")


def _stop_limit_s(drain_timeout_s: float) -> float:
    """How long a whole stop may take: 85 s with the default, and always less than the unit's `TimeoutStopSec`."""
    return drain_timeout_s + _UNLOAD_LIMIT_S + _LAST_ANSWERS_LIMIT_S


def _build_routes(host: Host) -> ASGIApp:
    from neuron_service.app import create_routes  # noqa: PLC0415 - takes longer than all that a probe needs

    routes: Any = create_routes(host)  # Litestar's type of a scope is narrower than ours
    return routes  # type: ignore[no-any-return]


async def _call_in_threads(host: Host, version: Callable[[], Version], check: Callable[[], None] | None) -> None:
    """Call both in threads. A host that stops does not wait for them."""
    host.set_version(await anyio.to_thread.run_sync(version, abandon_on_cancel=True))
    if check is not None:
        await anyio.to_thread.run_sync(check, abandon_on_cancel=True)


async def _activate(
    host: Host,
    config: Config,
    environ: Mapping[str, str],
    backends: Sequence[Backend[Any]] = BACKENDS,
    open_routes: Callable[[], Awaitable[None]] = checkpoint,
) -> None:
    """Offer the harnesses, open the routes, look at the hardware until it has been seen, load the default models."""
    await _offer_harnesses(host, config, environ, backends)
    await open_routes()

    async def look(number: int) -> Discovery:
        return await discover(
            harnesses=host.harnesses,
            max_prompt_tokens=config.max_prompt_tokens,
            run=partial(run_tool, deadline_s=tool_limit_s(number)),
            look=number,
        )

    # The objects that exist now stay. Looking through them takes the garbage collector 12 ms (measured), and the event
    # loop would wait for that.
    gc.freeze()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_until_seen, look, host.set_discovery)
        with contextlib.suppress(ShuttingDown):  # a stop ends this task, and may be noticed in a load first
            await _load_default_models(host, config)


async def _offer_harnesses(
    host: Host, config: Config, environ: Mapping[str, str], backends: Sequence[Backend[Any]]
) -> None:
    """Register the harnesses. Each is made in a thread, because its imports take long and probes must be answered."""
    setup = HarnessSetup(
        models=config.models,
        environ=environ,
        gpu_memory_mb=host.gpu_memory_mb,
        max_prompt_tokens=config.max_prompt_tokens,
        ends_with_thread=True,
        read=read_socket,
    )
    for backend in backends:
        if backend.name in host.harnesses:
            harness = await anyio.to_thread.run_sync(backend.make, backend.of(config), setup)
            host.registry.register(harness, aliases=backend.aliases)


async def _load_default_models(host: Host, config: Config) -> None:
    """Load them once the hardware has been seen, or after waiting for that too long. Raises `ShuttingDown`."""
    reason = (await host.hardware_within(_HARDWARE_PATIENCE_S)).cuda_unavailable_reason
    if reason is None:
        await load_default_models(host.registry, config.default_models, host.tracker)
    else:
        _fail_default_models(host.tracker, reason)


def _fail_default_models(tracker: ActivationTracker, reason: str) -> None:
    """Give up all default models: with a broken driver no load can succeed. Discovery has logged why."""
    for model_id in tracker.snapshot().pending:
        tracker.fail_loading(model_id, reason)
    tracker.mark_ready()


async def _obey(signals: AsyncIterator[signal.Signals], stop: anyio.Event) -> None:
    """Set `stop` at the first signal to stop, and end the process at a later one.

    Engines whose daemon has ended see their socket close and end too.
    """
    stops = StopSignals()
    async for signum in signals:
        name = signal.Signals(signum).name
        if signum == signal.SIGHUP:
            # A terminal was closed, or somebody expects a reload. Neither is a reason to end replies.
            logger.warning("%s ignored: the configuration is read at the start only", name)
            continue
        match stops.hear(now_s=anyio.current_time()):
            case Meaning.DRAIN:
                logger.info("%s received, draining", name)
                stop.set()
            case Meaning.SAME:
                logger.info("%s received with the first signal, still draining", name)
            case Meaning.HURRY:
                logger.warning("%s received again, exiting at once", name)
                logging.shutdown()
                os._exit(128 + signum)


async def _end_without_unloading(registry: Registry, limit_s: float) -> None:
    """Exit the process when a shutdown takes longer than `limit_s`."""
    await anyio.sleep(limit_s)
    logger.error("shutdown is stuck after %g s, exiting without the rest of it: %r", limit_s, registry)
    logging.shutdown()
    os._exit(0)
