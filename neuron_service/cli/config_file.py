"""`neuron config show`, `schema` and `init`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from neuron_lib.config import Config, load_config_with_origins
from neuron_lib.errors import ConfigError
from neuron_service.backends import BACKENDS
from neuron_service.cli.config_text import config_as_builtins, config_as_toml, config_schema, first_file
from neuron_service.cli.configuration import config_path, log_level
from neuron_service.cli.failures import report_failure
from neuron_service.cli.named_models import files_of, named_model
from neuron_service.cli.no_such_model import NoSuchModel
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.terminal import complain
from neuron_service.log_config import configure_logging

__all__ = ("show_config", "show_schema", "write_first_file")


def show_config(options: ConfigOptions, *, only_given: bool, as_json: bool) -> int:
    """Print the configuration that counts, and where each value came from. Returns the exit status."""
    try:
        configure_logging(log_level(options, os.environ, default="warning"), environ=os.environ)
        config, origins = load_config_with_origins(config_path(options), os.environ, sections=BACKENDS)
    except ConfigError as error:
        return report_failure(error)
    if as_json:
        _print_json({"config": config_as_builtins(config), "origins": origins})
    else:
        sys.stdout.write(config_as_toml(config, origins, only_given=only_given))
    return os.EX_OK


def show_schema() -> int:
    """Print what may stand in a configuration file, as a JSON Schema. Returns the exit status."""
    _print_json(config_schema(BACKENDS))
    return os.EX_OK


def write_first_file(texts: Sequence[str], *, output: Path, overwrites: bool) -> int:
    """Write a first configuration file that loads these models. `-` is stdout. Returns the exit status."""
    try:
        models = [named_model(Config(), text, folder=Path.cwd()) for text in texts]
        for model in models:
            files_of(model)
    except NoSuchModel as error:
        return report_failure(error)
    text = first_file(models)
    if str(output) == "-":
        sys.stdout.write(text)
        return os.EX_OK
    try:
        with output.open("w" if overwrites else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        complain(f"{output} is there; give another name with --output, or have it replaced with --force")
        return os.EX_CANTCREAT
    except OSError as error:
        complain(f"{output} cannot be written: {error.strerror or error}")
        return os.EX_CANTCREAT
    option = "" if output == Path("neuron.toml") else f" --config {output}"
    print(f"wrote {output}; look it over, then: neuron serve{option}")
    return os.EX_OK


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
