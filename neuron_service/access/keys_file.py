"""Changes the file of keys. Blocking. A reader sees the file as it was or as it will be, and nothing between."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuron_lib.errors import ConfigError
from neuron_service.access.keys import Key, line_of, new_secret, parse_keys
from neuron_service.access.scopes import Scope
from neuron_service.access.setup import read_keys

__all__ = ("NoSuchKey", "add_key", "list_keys", "remove_key")

_PRIVATE: Final = 0o600
_FOR_THE_GROUP: Final = 0o640
_HEADING: Final = "# API keys of neuron. `neuron key` changes this file. It has hashes of keys, and no key.\n"


class NoSuchKey(ConfigError):
    """There is no key of this name in the file."""


def list_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, in its order; none if there is no file. Raises `OSError` and `ConfigError`."""
    return parse_keys(_text(path), place=str(path))


def add_key(path: Path, name: str, scopes: frozenset[Scope]) -> str:
    """Make a key, write its line to the end of the file, and return the key, which is kept nowhere.

    A new file can be read by its owner and by the group of its directory. So the service can read the file below
    `/etc/neuron`. Raises `ConfigError` for a name that is taken and for a file that is wrong already, and `OSError`.
    Then the file is as it was.
    """
    secret = new_secret()
    with _alone(path) as file:
        text = _text(file) or _HEADING
        if name in (key.name for key in parse_keys(text, place=str(path))):
            raise ConfigError(f"{path} has a key named {name} already; choose another name, or delete that key first")
        text = f"{text.rstrip()}\n{line_of(name, scopes, secret)}\n"
        parse_keys(text, place=str(path))  # there may be too many
        _replace(file, text)
    return secret


def remove_key(path: Path, name: str) -> None:
    """Remove the line of a key. Raises `NoSuchKey`, `ConfigError` for a file that is wrong already, and `OSError`."""
    with _alone(path) as file:
        text = _text(file)
        if name not in (key.name for key in parse_keys(text, place=str(path))):
            raise NoSuchKey(f"{path} has no key named {name}")
        _replace(file, "".join(line for line in text.splitlines(keepends=True) if line.split()[:1] != [name]))


def _text(path: Path) -> str:
    try:
        return read_keys(path)
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The file itself, behind links, while no other process changes a file of keys in its directory."""
    file = path.resolve()
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is changing {path}; try again") from None
        yield file
        os.fsync(directory)
    finally:
        os.close(directory)


def _set_readers(descriptor: int, file: Path) -> None:
    """Let the same users read the file as before, or the group of the directory if there was no file."""
    try:
        before = file.stat()
    except FileNotFoundError:
        with contextlib.suppress(PermissionError):  # the directory may be that of a group of others
            os.fchown(descriptor, -1, file.parent.stat().st_gid)
            os.fchmod(descriptor, _FOR_THE_GROUP)
    else:
        os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _replace(file: Path, text: str) -> None:
    """Give the file a new content."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            _set_readers(descriptor, file)
            out.write(text)
            out.flush()
            os.fsync(descriptor)
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
