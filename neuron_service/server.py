"""The life of the process: bind, answer, look at the hardware, load the default models, drain, end."""

import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib import ActivationTracker, Registry, load_default_models
from neuron_lib.backend import Backend
from neuron_lib.config import Config
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.look import look_until_seen, tool_limit_s
from neuron_lib.discovery.probe import discover
from neuron_lib.discovery.tool import run_tool
from neuron_lib.errors import ConfigError, LoadFailed, ShuttingDown
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.types import Discovery, ModelSpec, public_id
from neuron_service.access.entrance import Entrance, EntranceRules
from neuron_service.asgi import ASGIApp
from neuron_service.backends import BACKENDS
from neuron_service.capacity import available_gpu_bytes, available_host_bytes, capacity_bytes, host_memory_bytes
from neuron_service.collector import Collector
from neuron_service.host import Host
from neuron_service.http.bodies import BodyBudget
from neuron_service.http.cap import ConnectionCap, raise_descriptor_limit
from neuron_service.http.certificates import Certificates
from neuron_service.http.listening import address_of, bind
from neuron_service.http.serving import http_server
from neuron_service.http.uvicorn_parts import Server
from neuron_service.http_rules import HttpRules
from neuron_service.late_routes import LateRoutes
from neuron_service.late_tracing import send_spans
from neuron_service.loop_lag import measure_lag
from neuron_service.probes import Probes
from neuron_service.reloading import Reloading
from neuron_service.request_log import RequestLog
from neuron_service.running import (
    Running,
    access_rules,
    configured_ids,
    endpoint_url,
    make_harnesses,
    say_who_is_let_in,
)
from neuron_service.settings import Settings
from neuron_service.stop_signals import Meaning, StopSignals
from neuron_service.systemd import Notifier, extend_timeout, feed_watchdog, keep_status
from neuron_service.tallies import Tallies
from neuron_service.version import Version

__all__ = ("bind", "serve")

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_ANSWERS_LIMIT_S: Final = 5
"""How long answers that are still on their way may take once everything has been unloaded."""
_LAST_REQUESTS_S: Final = 0.2
"""How long clients that were accepted just before accepting ended may take to send the head of their request."""
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
    tls: ssl.SSLContext | None = None,
    reread: Callable[[], Settings] | None = None,
    collector: Collector | None = None,
    is_port_kept: bool = False,
) -> None:
    """Serve on `sock` until SIGTERM or SIGINT, then drain and return. A later signal ends the process at once.

    `entrance` says who is let in; without it, everybody is. systemd is told by `notifier` what happens. If `watchdog_s`
    is given, systemd is also told in this interval that the daemon is alive. `version` and `check` block, and are
    called in threads once the host answers. `backends` are those that the configuration may name; those that it names
    are offered. With `tls` the service speaks HTTPS alone. `reread` blocks, and reads everything again on SIGHUP;
    without it a SIGHUP is ignored. The spans of requests are sent to `collector`, if there is one. `is_port_kept` says
    that `sock` goes on listening when this process ends: who connects during the drain is left to the next process.
    """
    monitor, tallies = DeviceMonitor(), Tallies()
    host_bytes = host_memory_bytes(config.residency.memory_mb)

    async def require_hardware() -> None:
        await host.require_hardware()

    registry = Registry(
        endpoint_url=endpoint_url(config, sock),
        drain_timeout_s=config.drain_timeout_secs,
        wait_for_load_s=config.load_wait_s,
        residency=ResidencyRules.from_config(config),
        capacity=lambda: capacity_bytes(host_bytes, host.gpu_memory_mb()),
        available=lambda: _available(registry, monitor),
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
        configured=configured_ids(config),
        has_page=config.http.page,
        tallies=tallies,
        entrance=Entrance(entrance or EntranceRules()),
    )
    routes = LateRoutes(partial(_build_routes, host))
    running = Running(
        host=host,
        sock=sock,
        backends=backends,
        rules=HttpRules(
            Probes(host, routes),
            access=access_rules(config, sock),
            entrance=host.entrance,
            cors_origins=config.http.cors_origins,
        ),
        bodies=BodyBudget(config.body_budget_mb << 20),
        certificates=None if tls is None else Certificates(tls),
    )
    request_log = RequestLog(running.rules, on_answer=tallies.take_answer)
    server = http_server(
        request_log,
        cap=ConnectionCap.for_descriptors(raise_descriptor_limit(), are_costly=tls is not None),
        shutdown_limit_s=_LAST_ANSWERS_LIMIT_S,
        certificates=running.certificates,
        bodies=running.bodies,
    )
    reloading = Reloading(config, reread=reread or _nothing_to_read, prepare=running.prepare, tell=registry.tell_reload)
    host.reloads = reloading.report
    with anyio.open_signal_receiver(*_SIGNALS) as signals:
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()
            tasks.start_soon(_obey, signals, stop, None if reread is None else reloading)
            tasks.start_soon(server.run_on, sock)
            await server.accepting.wait()
            for _ in range(_FIRST_ANSWER_TURNS):
                await checkpoint()
            logger.info("listening on %s", address_of(sock, is_tls=tls is not None))
            say_who_is_let_in(config, host.entrance.rules)
            tasks.start_soon(keep_status, notifier, host.status_line)
            tasks.start_soon(measure_lag, tallies.loop_lag_s)
            if watchdog_s is not None:
                tasks.start_soon(feed_watchdog, notifier, watchdog_s, host.is_moving)
            await tasks.start(send_spans, request_log, collector)
            async with registry:
                async with anyio.create_task_group() as background:
                    reload = partial(_follow_reloads, host, reloading, notifier)
                    activate = partial(_activate, open_routes=routes.load, follow_reloads=reload)
                    background.start_soon(activate, host, config, environ, backends)
                    tasks.start_soon(_call_in_threads, host, version, check)
                    background.start_soon(monitor.run)
                    background.start_soon(host.host_monitor.run)
                    await stop.wait()
                    last = reloading.config
                    _begin_stop(host, last, is_port_kept=is_port_kept)
                    tasks.start_soon(_end_without_unloading, registry, _stop_limit_s(last.drain_timeout_secs))
                    notifier.send("STOPPING=1", status=host.status_line())
                    tasks.start_soon(extend_timeout, notifier)
                    background.cancel_scope.cancel()
                routes.close()
                await _drain(host, last, server if is_port_kept else None)
            server.should_exit = True
            await server.stopped.wait()
            tasks.cancel_scope.cancel()
    logger.info("shutdown complete")


async def _available(registry: Registry, monitor: DeviceMonitor) -> dict[str, int]:
    """The bytes that the models could have now on each device that can be measured."""
    # The memory of a model that is being loaded is not known before the end of its load.
    gpus = {} if registry.loading() else available_gpu_bytes(monitor.fresh_readings(), registry.list_models())
    return await available_host_bytes() | gpus


def _nothing_to_read() -> Settings:
    raise ConfigError("this service was started without a configuration that can be read again")


def _begin_stop(host: Host, config: Config, *, is_port_kept: bool) -> None:
    """Take the host out of the rotation of gateways. Requests are refused, unless `_drain` takes some more."""
    if config.drain_notice_secs:
        logger.info("requests are taken for %g s more, until gateways have noticed", config.drain_notice_secs)
    if config.drain_notice_secs or is_port_kept:
        host.announce_stop()
    else:
        host.start_draining()


async def _drain(host: Host, config: Config, server: Server | None) -> None:
    """Take requests during the notice, and then let the running ones end, as long as the drain may take.

    If there is a `server`, it stops accepting after the notice. A client that it has accepted by then may still ask,
    and goes to the next process with its further requests.
    """
    with anyio.move_on_after(config.drain_timeout_secs):
        await anyio.sleep(config.drain_notice_secs)
        if server is not None:
            server.stop_accepting()
            await anyio.sleep(_LAST_REQUESTS_S)
        host.start_draining()
        if server is not None:
            server.part_with_clients()
        await host.registry.wait_idle()


def _stop_limit_s(drain_timeout_s: float) -> float:
    """How long a whole stop may take: 85 s with the default, and always less than the unit's `TimeoutStopSec`."""
    return drain_timeout_s + _UNLOAD_LIMIT_S + _LAST_ANSWERS_LIMIT_S


def _build_routes(host: Host) -> ASGIApp:
    from neuron_service.app import create_routes  # noqa: PLC0415 - takes longer than all that a probe needs

    routes: Any = create_routes(host)
    return routes  # type: ignore[no-any-return]  # Litestar's type of a scope is narrower than ours


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
    *,
    open_routes: Callable[[], Awaitable[None]] = checkpoint,
    follow_reloads: Callable[[], Coroutine[Any, Any, None]] = checkpoint,
) -> None:
    """Offer the harnesses, open the routes, look at the hardware until it has been seen, load the default models.

    `follow_reloads` runs from the time at which there are harnesses that a reload could replace.
    """
    for harness, aliases in await make_harnesses(host, config, environ, backends):
        host.registry.register(harness, aliases=aliases)
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
        tasks.start_soon(follow_reloads)
        with contextlib.suppress(ShuttingDown):  # a stop ends this task, and may be noticed in a load first
            await _load_default_models(host, config.default_models, host.tracker)


async def _follow_reloads(host: Host, reloading: Reloading, notifier: Notifier) -> None:
    """Reload the configuration whenever that is asked for, and load the default models that this adds."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reloading.run, notifier, host.status_line)
        tasks.start_soon(_load_added_models, host, reloading)


async def _load_added_models(host: Host, reloading: Reloading) -> None:
    """Load default models that reloads add, once those of the start are settled. Ends when the host stops."""
    with contextlib.suppress(ShuttingDown):
        while True:
            specs, tracker = await reloading.next_added()
            await host.tracker.wait_settled([public_id(spec.model_id) for spec in reloading.at_start.default_models])
            await _load_default_models(host, specs, tracker)


async def _load_default_models(host: Host, specs: Sequence[ModelSpec], tracker: ActivationTracker) -> None:
    """Load them once the hardware has been seen, or after waiting for that too long. Raises `ShuttingDown`."""
    reason = (await host.hardware_within(_HARDWARE_PATIENCE_S)).cuda_unavailable_reason
    if reason is None:
        await load_default_models(host.registry, specs, tracker)
    else:
        _fail_default_models(host.registry, tracker, reason)


def _fail_default_models(registry: Registry, tracker: ActivationTracker, reason: str) -> None:
    """Give up all default models: with a broken driver no load can succeed. Discovery has logged why."""
    for model_id in tracker.snapshot().pending:
        registry.tell_refused_load(LoadFailed(reason), model_id=model_id)
        tracker.fail_loading(model_id, reason)
    tracker.mark_ready()


async def _obey(signals: AsyncIterator[signal.Signals], stop: anyio.Event, reloading: Reloading | None) -> None:
    """Set `stop` at the first signal to stop, and end the process at a later one. SIGHUP asks for a reload.

    Engines whose daemon has ended see their socket close and end too.
    """
    stops = StopSignals()
    async for signum in signals:
        name = signal.Signals(signum).name
        if signum == signal.SIGHUP:
            if reloading is None:
                logger.warning("%s ignored: there is nothing to read again", name)
            elif stop.is_set():
                logger.warning("%s ignored: the service stops", name)
            else:
                logger.info("%s received, reading the configuration again", name)
                reloading.request()
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
