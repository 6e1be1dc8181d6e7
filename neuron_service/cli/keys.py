"""`neuron key new`, `ls` and `rm`: the API keys of a service, without a running service."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from neuron_lib.config import load_config
from neuron_lib.errors import ConfigError
from neuron_service.access.keys import is_key_name
from neuron_service.access.keys_file import NoSuchKey, add_key, list_keys, remove_key
from neuron_service.access.scopes import Scope
from neuron_service.backends import BACKENDS
from neuron_service.cli.configuration import config_path, for_this_machine, log_level
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.screen import print_json, print_table
from neuron_service.cli.terminal import complain, drop_the_rest
from neuron_service.log_config import configure_logging

__all__ = ("delete_key", "new_key", "show_keys")


def new_key(options: ConfigOptions, name: str, *, scopes: Sequence[Scope], file: Path | None, as_json: bool) -> int:
    """Make a key and print it. Returns the exit status."""
    _require_name(name)
    wanted: frozenset[Scope] = frozenset(scopes or ["inference"])
    return _with_file(options, file, lambda path: _show_new(path, name, wanted, as_json=as_json))


def show_keys(options: ConfigOptions, *, file: Path | None, as_json: bool) -> int:
    """Print the names and scopes of all keys. Returns the exit status."""
    return _with_file(options, file, lambda path: _show_all(path, as_json=as_json))


def delete_key(options: ConfigOptions, name: str, *, file: Path | None, as_json: bool) -> int:
    """Delete the line of a key. Returns the exit status."""
    _require_name(name)

    def delete(path: Path) -> None:
        remove_key(path, name)
        if as_json:
            print_json({"name": name, "status": "deleted"})

    return _with_file(options, file, delete)


class _NotShown(Exception):
    """Nobody has seen a new key, and nobody could see it later."""


def _require_name(name: str) -> None:
    """Raises `click.UsageError` for a name that no key may have."""
    if not is_key_name(name):
        raise click.UsageError(
            "a name has 1 to 64 letters, digits, `.`, `_` and `-`, and begins with a letter or a digit"
        )


def _with_file(options: ConfigOptions, named: Path | None, act: Callable[[Path], None]) -> int:
    """Do something with the file of keys. Returns the exit status, and says what went wrong."""
    try:
        act(_file(options, named))
    except NoSuchKey as missing:
        complain(str(missing))
        return 1
    except ConfigError as error:
        complain(str(error))
        return os.EX_CONFIG
    except _NotShown as failure:
        complain(str(failure))
        return os.EX_IOERR
    except OSError as error:
        complain(f"{error.filename or 'the file of keys'}: {error.strerror or error}")
        return os.EX_IOERR
    return 0


def _file(options: ConfigOptions, named: Path | None) -> Path:
    """The file of keys that the command line names, else that of the configuration. Raises `ConfigError`."""
    configure_logging(log_level(options, os.environ, default="warning"), environ=os.environ)
    if named is not None:
        return named
    config = load_config(config_path(options), for_this_machine(os.environ), sections=BACKENDS)
    if config.keys_file is None:
        raise ConfigError("the configuration has no `keys_file`: name it there, or give --file")
    return Path(config.keys_file)


def _show_new(path: Path, name: str, scopes: frozenset[Scope], *, as_json: bool) -> None:
    secret = add_key(path, name, scopes)
    try:
        print(json.dumps({"name": name, "scopes": sorted(scopes), "key": secret}) if as_json else secret, flush=True)
    except OSError as error:
        remove_key(path, name)
        drop_the_rest(sys.stdout)
        raise _NotShown(f"the key could not be printed, so it was not made: {error.strerror}") from error
    complain(
        f"{path} now has the key {name} for {', '.join(sorted(scopes))}. This is the only time that the key is shown. "
        "The service knows the key after its next reload or start."
    )


def _show_all(path: Path, *, as_json: bool) -> None:
    keys = list_keys(path)
    if as_json:
        print(json.dumps({"keys": [{"name": key.name, "scopes": sorted(key.scopes)} for key in keys]}))
        return
    print_table(("NAME", "SCOPES"), [(key.name, ", ".join(sorted(key.scopes))) for key in keys])
