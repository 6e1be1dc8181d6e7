"""`neuron serve`: read the configuration, listen, serve, end the process."""

import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from threading import Thread
from typing import Final, NoReturn

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError, cause_chain, first_leaf
from neuron_lib.types import public_id
from neuron_service.cli.configuration import config_path, log_level
from neuron_service.cli.no_such_model import NoSuchModel
from neuron_service.cli.options import ServeOptions
from neuron_service.cli.screen import print_json
from neuron_service.cli.service_packages import missing_packages
from neuron_service.cli.service_settings import read_settings
from neuron_service.cli.terminal import complain
from neuron_service.collector import TRACING_PACKAGES, Collector, can_trace, wanted_collector
from neuron_service.http.listening import address_of, bind, file_removed_at_end, place_of
from neuron_service.log_config import configure_logging, hold_records
from neuron_service.settings import Settings
from neuron_service.systemd import Notifier, SystemdEnvironment, inherited_socket

__all__ = ("check_configuration", "greeting", "reader_for_reloads", "run_service")

logger = logging.getLogger(__name__)

_EXAMPLE_MODEL: Final = "Qwen/Qwen3-0.6B-GGUF"
_REMEDIES: Final = {
    errno.EADDRINUSE: "stop what listens there (`ss -lntp` names it), or choose another port with --port",
    errno.EADDRNOTAVAIL: "no network of this machine has that address; `ip address` lists those that there are",
    errno.EACCES: "this user may not listen there; choose a port from 1024 on with --port",
}
"""What to do if an address cannot be listened on."""


def run_service(options: ServeOptions, notifier: Notifier, manager: SystemdEnvironment) -> NoReturn:
    """Serve until a signal, or check the configuration if `options` say so, and end the process."""
    reread = reader_for_reloads(options)
    try:
        settings = _read_settings(options)
        inherited = inherited_socket(manager.socket_count)
    except ConfigError as error:
        status = error.exit_status if isinstance(error, NoSuchModel) else os.EX_CONFIG
        _give_up(str(error), notifier, status=status, number=errno.EINVAL)
    if options.check_config:
        sys.exit(_report_faults(settings.config, settings.environ))
    _require_service_packages(notifier)
    collector = _collector(settings.config, notifier)
    # Before `serve` receives signals there is nothing to drain. Child processes do not inherit a handler; they would
    # inherit a mask.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, lambda *_: None)  # the configuration has just been read
    config = settings.config
    try:
        mode = int(config.socket_mode, 8)
        sock = bind(config.host, config.port, socket_mode=mode) if inherited is None else inherited
    except OSError as error:
        reason = f"cannot listen on {place_of(config.host, config.port)}: {error.strerror or error}"
        if error.errno in _REMEDIES:
            reason = f"{reason}; {_REMEDIES[error.errno]}"
        _give_up(reason, notifier, status=os.EX_OSERR, number=error.errno or 0)
    # In a thread, because the service must not wait for a reader of stdout.
    Thread(target=_say, args=[greeting(sock, config)], name="greeting", daemon=True).start()
    ours = contextlib.nullcontext() if inherited is not None else file_removed_at_end(sock)
    is_kept = inherited is not None
    _serve(settings, sock, notifier, ours, reread=reread, manager=manager, collector=collector, is_port_kept=is_kept)


def check_configuration(options: ServeOptions, *, as_json: bool) -> int:
    """Print whether the configuration can work on this host. Returns the exit status."""
    from neuron_service.cli.config_check import find_model_faults

    try:
        settings = _read_settings(options)
        faults = list(find_model_faults(settings.config, settings.environ))
    except ConfigError as error:
        faults = [str(error)]
    if not as_json:
        return _report(faults)
    print_json({"valid": not faults, "faults": faults})
    return os.EX_CONFIG if faults else 0


def _collector(config: Config, notifier: Notifier) -> Collector | None:
    """Where spans are sent to. Ends with a sentence if the file asks for spans and the packages are missing."""
    collector = wanted_collector(config.tracing.otlp_endpoint, os.environ)
    if collector is None or can_trace():
        return collector
    install = f"{sys.executable} -m pip install {' '.join(TRACING_PACKAGES)}"
    reason = f"`{collector.source}` asks for spans, which need packages that are not here; install them: {install}"
    if collector.endpoint is not None:
        _give_up(reason, notifier, status=os.EX_UNAVAILABLE, number=errno.ENOPKG)
    logger.warning("%s", reason)  # the variable may be meant for other programs
    return None


def _read_settings(options: ServeOptions) -> Settings:
    """Read everything that the service needs, and log from then on as it says. Raises `ConfigError`."""
    level, log_format = log_level(options, os.environ), Config().log_format
    hold_records(level)
    try:
        settings = read_settings(options, os.environ)
        level, log_format = settings.log_level, settings.config.log_format
    finally:  # what was held is written even if the configuration cannot be read
        configure_logging(level, log_format=log_format, environ=os.environ)
    return settings


def reader_for_reloads(options: ServeOptions) -> Callable[[], Settings]:
    """What reads everything again, from the file that is there now. Blocking. Raises `ConfigError`.

    A `neuron.toml` that was found at the start and is gone is an error then. Defaults in its place would let callers in
    who were kept out. Faults of models are logged as at the start.
    """
    pinned = dataclasses.replace(options, config=config_path(options))

    def read() -> Settings:
        settings = read_settings(pinned, os.environ)
        _warn_of_faults(settings.config, settings.environ)
        return settings

    return read


def _require_service_packages(notifier: Notifier) -> None:
    """End with a sentence that says what to install, if a package is missing that only `serve` needs."""
    if missing := missing_packages():
        install = f"{sys.executable} -m pip install 'neuron-node[service]'"
        reason = f"`neuron serve` needs the Python packages {', '.join(missing)}; install them: {install}"
        _give_up(reason, notifier, status=os.EX_UNAVAILABLE, number=errno.ENOPKG)


def _report_faults(config: Config, environ: Mapping[str, str]) -> int:
    """Print whether each model of the configuration can be loaded. Returns the exit status."""
    from neuron_service.cli.config_check import find_model_faults

    return _report(list(find_model_faults(config, environ)))


def _report(faults: Sequence[str]) -> int:
    """Print the faults of a configuration, or that there is none. Returns the exit status."""
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
    settings: Settings,
    sock: socket.socket,
    notifier: Notifier,
    file: AbstractContextManager[None],
    *,
    reread: Callable[[], Settings],
    manager: SystemdEnvironment,
    collector: Collector | None,
    is_port_kept: bool,
) -> NoReturn:
    """Serve until a signal comes, and end the process. Connections wait in the backlog while the server is imported.

    `file` is the file of a Unix socket.
    """
    import anyio

    from neuron_service.server import serve
    from neuron_service.version import find_version

    async def live() -> NoReturn:
        status = 0
        try:
            with file:
                await serve(
                    settings.config,
                    sock=sock,
                    version=partial(find_version, dict(os.environ)),
                    entrance=settings.entrance,
                    environ=settings.environ,
                    notifier=notifier,
                    watchdog_s=manager.watchdog_s,
                    check=partial(_warn_of_faults, settings.config, settings.environ),
                    tls=settings.tls,
                    is_port_kept=is_port_kept,
                    reread=reread,
                    collector=collector,
                )
        except Exception as error:
            reason = first_leaf(error) if isinstance(error, ExceptionGroup) else error
            is_bug = not isinstance(reason, ConfigError)
            logger.critical("the service failed: %s", cause_chain(reason), exc_info=is_bug)
            notifier.fail(f"failed: {cause_chain(reason)}", number=0)
            status = os.EX_SOFTWARE if is_bug else os.EX_CONFIG
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
    if sock.family == socket.AF_UNIX:
        where, curl, url = address_of(sock), f"curl --unix-socket {sock.getsockname()}", "http://localhost"
        listens = f"neuron listens on {where} (health: {curl} {url}/health)."
    else:
        url = address_of(sock, is_tls=config.tls_cert is not None)
        url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//127.0.0.1:")
        page = f"page: {url}/, " if config.http.page else ""
        curl, listens = "curl", f"neuron listens on {url} ({page}health: {url}/health)."
    key = "" if "loopback" in config.trusted_networks else ' -H "x-api-key: $NEURON_API_KEY"'
    if config.default_models:
        return f"{listens} Try:\n\n  {curl} -N {_chat(url, config.default_models[0].model_id, key=key)}\n"
    if not config.harnesses:
        return f"{listens} Its configuration offers no harness, so it can load no model.\n"
    model_id = config.models[0].id if config.models else _EXAMPLE_MODEL
    harness = "" if len(config.harnesses) == 1 else f',"harness":"{config.harnesses[0].name}"'
    return (
        f"{listens} It has no model yet: [[default_models]] in its configuration names those to load at start. "
        f"To load one now:\n\n  {curl} {url}/models/load{key} -H 'content-type: application/json' "
        f'-d \'{{"model_id":"{model_id}"{harness}}}\'\n'
    )


def _chat(url: str, model_id: str, *, key: str) -> str:
    """The arguments of curl for a chat."""
    body = (
        f'{{"model":"{public_id(model_id)}","stream":true,'
        '"messages":[{"role":"user","content":"Why is the sky blue?"}]}'
    )
    return f"{url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of stdout has gone
        print(text, flush=True)
