"""Which variables of the environment look like mistyped configuration keys. Pure; reads no environment itself."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import fields

__all__ = ("PREFIX", "find_mistyped")

PREFIX: Final = "NEURON_"

_SWITCHES: Final = frozenset({"api_key", "client_cert", "client_key", "git_sha", "log", "use_chat_template"})
"""Variables that are no keys and are read elsewhere, without the prefix and in small letters."""
_OTHER_NAMES: Final = {"config": "--config", "config_file": "--config"}
"""Names that somebody may give to a variable for an option, and what has that meaning instead."""
_NEAR: Final = 0.66
"""How alike two names must be, by `difflib`, for one of them to count as the other one mistyped."""


def find_mistyped(names: Collection[str], config: type[Struct]) -> Iterator[tuple[str, str | None]]:
    """Each of these variables that seems to be meant for a key of `config`, with the variable of the nearest key.

    In place of a variable there may be an option of the command line with that meaning, or None where nothing is near.
    `names` are variables that name no key. Most of them belong to other programs, so only near misses count. A variable
    that begins like a key below `harness` always counts, because no other program has variables of that name.
    """
    known = {**_variables(config), **{switch: PREFIX + switch.upper() for switch in _SWITCHES}, **_OTHER_NAMES}
    nested = {name for name in known if name.startswith("harness_")}
    for variable in sorted(names):
        name = re.sub("_+", "_", variable.removeprefix(PREFIX).lower())
        if not variable.startswith(PREFIX) or name in _SWITCHES:
            continue
        is_nested = name.startswith("harness_")
        near = difflib.get_close_matches(name, nested if is_nested else known, n=1, cutoff=_NEAR)
        if near or is_nested:
            yield variable, known[near[0]] if near else None


def _variables(struct: type[Struct], keys: tuple[str, ...] = ()) -> Mapping[str, str]:
    """The variable of each key below `struct`, by its name without the prefix and with single underscores."""
    found: dict[str, str] = {}
    for f in fields(struct):
        path = (*keys, f.name)
        if isinstance(f.type, type) and issubclass(f.type, Struct):
            found |= _variables(f.type, path)
        else:
            found["_".join(path)] = PREFIX + "__".join(path).upper()
    return found
