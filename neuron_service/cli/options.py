"""The options that several commands share, and what they pass on to the code that does the work."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

__all__ = (
    "COMPLETION_VARIABLE",
    "LOG_LEVELS",
    "Command",
    "ConfigOptions",
    "Number",
    "ServeOptions",
    "config_option",
    "json_option",
    "quant_option",
    "with_config",
)

COMPLETION_VARIABLE: Final = "_NEURON_COMPLETE"
"""Set by the completion of a shell, when it asks which words may come next."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

Command = Callable[..., int | None]
"""The function of a command. Its result is the exit status."""


@dataclass(slots=True, frozen=True, kw_only=True)
class ConfigOptions:
    """Where the configuration of a command comes from, and how much the command logs. None where nothing was said."""

    config: Path | None = None
    log_level: str | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class ServeOptions(ConfigOptions):
    """The options of `neuron serve`. They override the file and the environment, except `default_host`.

    `models` are those to load at the start, as they were typed. If there are none, those of the file are loaded.
    """

    models: tuple[str, ...] = ()
    demo: bool = False
    host: str | None = None
    default_host: str | None = None
    port: int | None = None
    check_config: bool = False


class Number(click.FloatRange):
    """A number within bounds. Unlike its parent it refuses `nan`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails for any other text."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def with_config(*, log_level: str = "warning") -> Callable[[Command], Command]:
    """Give a command `--config` and `--log-level`. Its function gets them as the argument `options`."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def run(*args: object, config: Path | None, log_level: str | None, **rest: object) -> int | None:
            return function(*args, options=ConfigOptions(config=config, log_level=log_level), **rest)

        return config_option(_log_level_option(log_level)(run))

    return decorate


def json_option(function: Command) -> Command:
    """Give a command `--json`. Its function gets the argument `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    return option(function)


def quant_option(function: Command) -> Command:
    """Give a command `--quant`. Its function gets the argument `quant`."""
    option = click.option(
        "--quant", help="Which of its files, such as Q4_K_M. Default: that of the entry, else the best."
    )
    return option(function)


def config_option(function: Command) -> Command:
    """Give a command `--config`. Its function gets the argument `config`."""
    option = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The TOML file to read. Default: neuron.toml, if there is one here.",
    )
    return option(function)


def _log_level_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        help=f"The least severe records to log, before NEURON_LOG. Default: {default}.",
    )
