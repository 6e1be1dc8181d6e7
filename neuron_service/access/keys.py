"""API keys: how they are made, how a file keeps them, and who has one. Pure, but for the randomness of a new key.

A key is 256 random bits, so its hash needs no salt and no slow function: nobody can try all of them. A file never has a
key, only hashes. Each line of the file is one key, `NAME SCOPES sha256:HASH`, and a line that begins with `#` explains.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple

from neuron_lib.errors import ConfigError
from neuron_service.access.scopes import SCOPES, Scope

__all__ = ("MAX_KEYS_BYTES", "Key", "KeyRing", "is_key_name", "line_of", "new_secret", "parse_keys", "parse_scopes")

MAX_KEYS_BYTES: Final = 1 << 18
"""The longest file of keys, in bytes."""
_MAX_KEYS: Final = 1000
"""A request with a key is compared with all of them, which takes a fraction of a millisecond."""
_PREFIX: Final = "neuron-"
"""A fixed beginning lets a scanner for secrets find keys in places where they should not be."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")


class Key(NamedTuple):
    """One key, without the text that its owner sends. `digest` is the SHA-256 of that text."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes


class KeyRing:
    """All keys of a service. Immutable. Knows nobody's key, only hashes."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: bytes) -> Key | None:
        """The key whose owner sent `secret`. None for an unknown one.

        Takes the same time for every secret of the same length: each key is compared, and each comparison is constant.
        """
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def new_secret() -> str:
    """A new key, which its owner will send: letters, digits, `-` and `_`."""
    return f"{_PREFIX}{secrets.token_urlsafe(32)}"


def line_of(name: str, scopes: Iterable[Scope], secret: str) -> str:
    """The line of a file of keys for a key with this name. Has no line feed at its end, and not the secret."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f"{name} {','.join(sorted(scopes))} sha256:{digest}"


def is_key_name(name: str) -> bool:
    """Whether a key may have this name: 1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit."""
    return _NAME.fullmatch(name) is not None


def parse_scopes(text: str) -> frozenset[Scope] | None:
    """The scopes in a text such as `inference,admin`; None if one of them is no scope, or if there is none."""
    named = text.split(",")
    scopes = frozenset(scope for scope in SCOPES if scope in named)
    return scopes if scopes and len(scopes) == len(set(named)) else None


def parse_keys(text: str, *, place: str) -> tuple[Key, ...]:
    """The keys in the text of a file. `place` is what errors call the file.

    Raises `ConfigError` for a line that is no key, and for a name or a hash that is there twice. No error shows a part
    of the text, because somebody may have written a key where its name or its hash belongs.
    """
    keys: list[Key] = []
    names: set[str] = set()
    digests: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        where = f"{place}, line {number}"
        if len(keys) == _MAX_KEYS:
            raise ConfigError(f"{where}: there are more than {_MAX_KEYS} keys")
        key = _parse_line(fields, where)
        if key.name in names:
            raise ConfigError(f"{where}: an earlier key has this name")
        if key.digest in digests:
            raise ConfigError(f"{where}: an earlier key has this hash")
        names.add(key.name)
        digests.add(key.digest)
        keys.append(key)
    return tuple(keys)


def _parse_line(fields: list[str], where: str) -> Key:
    if len(fields) != 3 or not is_key_name(fields[0]):
        raise ConfigError(f"{where}: a key is `NAME SCOPES sha256:HASH`; `neuron key new` writes such a line")
    name, scopes, digest = fields[0], parse_scopes(fields[1]), _HASH.fullmatch(fields[2])
    if scopes is None:
        raise ConfigError(f"{where}: the scopes are not one or more of {','.join(SCOPES)}")
    if digest is None:
        raise ConfigError(f"{where}: there is no `sha256:` with 64 hexadecimal digits")
    return Key(name, scopes, bytes.fromhex(digest[1]))
