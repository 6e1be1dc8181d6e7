"""`neuron serve`: read the configuration, listen, serve, end the process."""

import argparse
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial
from threading import Thread
from typing import Final, NoReturn

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError, cause_chain
from neuron_lib.types import public_id
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.setup import entrance_rules
from neuron_service.cli.configuration import log_level, service_config, with_credentials
from neuron_service.cli.service_packages import missing_packages
from neuron_service.cli.terminal import complain
from neuron_service.collector import TRACING_PACKAGES, Collector, can_trace, wanted_collector
from neuron_service.http.listening import bind
from neuron_service.log_config import LogFormat, configure_logging, hold_records
from neuron_service.systemd import Notifier, SystemdEnvironment, inherited_socket

__all__ = ("greeting", "run_service")

logger = logging.getLogger(__name__)

_EXAMPLE_MODEL: Final = "Qwen/Qwen3-0.6B-GGUF"


def run_service(options: argparse.Namespace, notifier: Notifier, manager: SystemdEnvironment) -> NoReturn:
    """Serve until a signal, or check the configuration if `options` say so, and end the process."""
    try:
        level = log_level(options, os.environ)
        config = _read_config(options, level)
        environ = with_credentials(config, os.environ)
        entrance = entrance_rules(config, environ)
        inherited = inherited_socket(manager.socket_count)
    except ConfigError as error:
        _give_up(str(error), notifier, status=os.EX_CONFIG, number=errno.EINVAL)
    if options.check_config:
        sys.exit(_report_faults(config, environ))
    _require_service_packages(notifier)
    collector = _collector(config, notifier)
    # Before `serve` receives signals there is nothing to drain. Child processes do not inherit a handler; they would
    # inherit a mask.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))
    try:
        sock = bind(config.host, config.port) if inherited is None else inherited
    except OSError as error:
        reason = f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
        _give_up(reason, notifier, status=os.EX_OSERR, number=error.errno or 0)
    # In a thread, because the service must not wait for a reader of stdout.
    Thread(target=_say, args=[greeting(sock, config)], name="greeting", daemon=True).start()
    _serve(config, sock, environ, notifier, entrance=entrance, watchdog_s=manager.watchdog_s, collector=collector)


def _collector(config: Config, notifier: Notifier) -> Collector | None:
    """Where spans are sent to. Ends with a sentence if the file asks for spans and the packages are missing."""
    collector = wanted_collector(config.tracing.otlp_endpoint, os.environ)
    if collector is None or can_trace():
        return collector
    install = f"{sys.executable} -m pip install 'neuron-node[otel]'"
    packages = " and ".join(TRACING_PACKAGES)
    reason = f"`{collector.source}` asks for spans, which needs the Python packages {packages}; install them: {install}"
    if collector.endpoint is not None:
        _give_up(reason, notifier, status=os.EX_UNAVAILABLE, number=errno.ENOPKG)
    logger.warning("%s", reason)  # the variable may be meant for other programs
    return None


def _read_config(options: argparse.Namespace, level: str) -> Config:
    """Read the configuration, and log from then on as it says. Raises `ConfigError`."""
    hold_records(level)
    log_format: LogFormat = "text"  # what was held is written even if the configuration cannot be read
    try:
        config = service_config(options, os.environ)
        log_format = config.log_format
    finally:
        configure_logging(level, log_format=log_format, environ=os.environ)
    return config


def _require_service_packages(notifier: Notifier) -> None:
    """End with a sentence that says what to install, if a package is missing that only `serve` needs."""
    if missing := missing_packages():
        install = f"{sys.executable} -m pip install 'neuron-node[service]'"
        reason = f"`neuron serve` needs the Python packages {', '.join(missing)}; install them: {install}"
        _give_up(reason, notifier, status=os.EX_UNAVAILABLE, number=errno.ENOPKG)


def _report_faults(config: Config, environ: Mapping[str, str]) -> int:
    """Print whether each model of the configuration can be loaded. Returns the exit status."""
    from neuron_service.cli.config_check import find_model_faults

    faults = list(find_model_faults(config, environ))
    for fault in faults:
        complain(fault)
    if faults:
        return os.EX_CONFIG
    print("configuration is valid")
    return 0


def _warn_of_faults(config: Config, environ: Mapping[str, str]) -> None:
    """Log the faults that `--check-config` refuses and that do not stop a start."""
    from neuron_service.cli.config_check import find_model_faults

    for fault in find_model_faults(config, environ):
        logger.warning("configuration: %s", fault)


def _serve(
    config: Config,
    sock: socket.socket,
    environ: Mapping[str, str],
    notifier: Notifier,
    *,
    entrance: EntranceRules,
    watchdog_s: float | None,
    collector: Collector | None,
) -> NoReturn:
    """Serve until a signal comes, and end the process. Connections wait in the backlog while the server is imported."""
    import anyio

    from neuron_service.server import serve
    from neuron_service.version import find_version

    async def live() -> NoReturn:
        status = 0
        try:
            await serve(
                config,
                sock=sock,
                version=partial(find_version, dict(os.environ)),
                entrance=entrance,
                environ=environ,
                notifier=notifier,
                watchdog_s=watchdog_s,
                check=partial(_warn_of_faults, config, environ),
                collector=collector,
            )
        except Exception as error:
            logger.critical("the service failed", exc_info=True)
            notifier.fail(f"failed: {cause_chain(error)}", number=0)
            status = os.EX_SOFTWARE
        # A thread that hangs in a download or a driver must not keep a drained process alive.
        logging.shutdown()
        os._exit(status)

    anyio.run(live, backend_options={"use_uvloop": True})
    raise AssertionError("live() does not return")


def _give_up(reason: str, notifier: Notifier, *, status: int, number: int) -> NoReturn:
    """End the process before it served anything, and tell systemd or the terminal why."""
    notifier.fail(reason, number=number)
    complain(reason)
    sys.exit(status)


def greeting(sock: socket.socket, config: Config) -> str:
    """The address of the service, and a command to paste: a chat with the first default model, otherwise a load."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}"
    listens = f"neuron listens on {address} (health: {address}/health)."
    key = "" if "loopback" in config.trusted_networks else ' -H "x-api-key: $NEURON_API_KEY"'
    if config.default_models:
        return f"{listens} Try:\n\n  {_chat_command(address, config.default_models[0].model_id, key=key)}\n"
    if not config.harnesses:
        return f"{listens} Its configuration offers no harness, so it can load no model.\n"
    model_id = config.models[0].id if config.models else _EXAMPLE_MODEL
    return (
        f"{listens} It has no model yet: [[default_models]] in its configuration names those to load at start. "
        f"To load one now:\n\n  curl {address}/models/load{key} -H 'content-type: application/json' "
        f'-d \'{{"model_id":"{model_id}","harness":"{config.harnesses[0].name}"}}\'\n'
    )


def _chat_command(address: str, model_id: str, *, key: str) -> str:
    body = (
        f'{{"model":"{public_id(model_id)}","stream":true,'
        '"messages":[{"role":"user","content":"Why is the sky blue?"}]}'
    )
    return f"curl -N {address}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of stdout has gone
        print(text, flush=True)
