"""`neuron key new`, `ls` and `rm`: the API keys of a service, without a running service."""

import argparse
import json
import os
import sys
from pathlib import Path

from neuron_lib.config import load_config
from neuron_lib.errors import ConfigError
from neuron_service.access.keys import is_key_name
from neuron_service.access.keys_file import NoSuchKey, add_key, list_keys, remove_key
from neuron_service.access.scopes import Scope
from neuron_service.backends import BACKENDS
from neuron_service.cli.command_line import usage_error
from neuron_service.cli.configuration import config_path, log_level
from neuron_service.cli.terminal import complain
from neuron_service.log_config import configure_logging

__all__ = ("run_key_command",)


def run_key_command(options: argparse.Namespace) -> int:
    """Run `neuron key`. Returns the exit status. Raises `UsageError` for a name that no key may have."""
    if options.name is not None and not is_key_name(options.name):
        usage_error("key", "a name has 1 to 64 letters, digits, `.`, `_` and `-`, and begins with a letter or a digit")
    try:
        path = _file(options)
        match options.action:
            case "new":
                _show_new(path, options.name, _scopes(options.scope))
            case "ls":
                _show_all(path, as_json=options.json)
            case _:
                remove_key(path, options.name)
    except NoSuchKey as missing:
        complain(str(missing))
        return 1
    except ConfigError as error:
        complain(str(error))
        return os.EX_CONFIG
    except OSError as error:
        complain(f"{error.filename or 'the file of keys'}: {error.strerror or error}")
        return os.EX_IOERR
    return 0


def _file(options: argparse.Namespace) -> Path:
    """The file of keys that the command line names, else that of the configuration. Raises `ConfigError`."""
    configure_logging(log_level(options, os.environ, default="warning"), environ=os.environ)
    if options.file is not None:
        named: Path = options.file
        return named
    config = load_config(config_path(options), os.environ, sections=BACKENDS)
    if config.keys_file is None:
        raise ConfigError("the configuration has no `keys_file`: name it there, or give --file")
    return Path(config.keys_file)


def _scopes(named: list[Scope] | None) -> frozenset[Scope]:
    return frozenset(named or ["inference"])


def _show_new(path: Path, name: str, scopes: frozenset[Scope]) -> None:
    secret = add_key(path, name, scopes)
    print(secret, flush=True)
    print(
        f"neuron: {path} now has the key {name} for {', '.join(sorted(scopes))}. This is the only time that the key is "
        "shown. The service knows the key after its next reload or start.",
        file=sys.stderr,
    )


def _show_all(path: Path, *, as_json: bool) -> None:
    keys = list_keys(path)
    if as_json:
        print(json.dumps({"keys": [{"name": key.name, "scopes": sorted(key.scopes)} for key in keys]}))
        return
    width = max(map(len, ("NAME", *(key.name for key in keys))))
    for name, scopes in (("NAME", "SCOPES"), *((key.name, ", ".join(sorted(key.scopes))) for key in keys)):
        print(f"{name:<{width}}  {scopes}")
