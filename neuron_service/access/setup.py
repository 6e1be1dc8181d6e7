"""From the configuration to the rules of the entrance. Reads the file of keys. Blocking."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError
from neuron_lib.logs import get_logger
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import MAX_KEYS_BYTES, Key, KeyRing, parse_keys
from neuron_service.access.networks import Networks

__all__ = ("CREDENTIAL", "entrance_rules", "read_keys")

CREDENTIAL: Final = "neuron_keys"
"""The name of the systemd credential that has the text of a file of keys."""


logger = get_logger(__name__)

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def entrance_rules(config: Config, environ: Mapping[str, str]) -> EntranceRules:
    """The rules that a configuration and a credential of systemd ask for. Changes nothing.

    Raises `ConfigError` for keys that cannot be read, for a user that is not there, and if nobody would be let in.
    """
    rules = EntranceRules(
        trusted=Networks.of(config.trusted_networks, own_uid=os.getuid()),
        proxies=Networks.of(config.trusted_proxies, own_uid=os.getuid()),
        keys=KeyRing(_keys(config, environ)),
    )
    if not config.trusted_networks and not rules.keys:
        raise ConfigError("`trusted_networks` is empty and there are no keys, so nobody could ask anything")
    return rules


def read_keys(path: Path) -> str:
    """The text of a file of keys. Warns if others than its owner may change it.

    Raises `OSError`, and `ConfigError` for a file that cannot have keys.
    """
    with open(path, "rb", opener=_open) as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(MAX_KEYS_BYTES + 1) if stat.S_ISREG(mode) else b""
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is not a regular file")
    if mode & _WRITABLE_BY_OTHERS:
        logger.warning("others than its owner may change the file of keys, and let anybody in", extra={"path": path})
    if len(content) > MAX_KEYS_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_KEYS_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None


def _keys(config: Config, environ: Mapping[str, str]) -> tuple[Key, ...]:
    """The keys of the file, or those of the credential. Both together would leave open which of them counts."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    credential = None if folder is None else Path(folder, CREDENTIAL)
    passed = credential if credential is not None and credential.exists() else None
    if config.keys_file is not None and passed is not None:
        raise ConfigError(f"there are a `keys_file` and the credential {CREDENTIAL}; keep one", key="keys_file")
    path = passed if config.keys_file is None else Path(config.keys_file)
    if path is None:
        return ()
    place = "`keys_file`" if passed is None else "credential"
    try:
        text = read_keys(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{place}: there is no {path}; `neuron key new NAME` makes the file") from error
    except OSError as error:
        raise ConfigError(f"{place}: {path}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return parse_keys(text, place=f"{place}: {path}")


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # or opening a named pipe would wait
