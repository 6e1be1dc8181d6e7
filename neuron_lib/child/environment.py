"""The environment variables of a child process: only those that it needs. Pure.

The daemon's environment holds tokens and keys, and a child has no business with them. So every variable is left out
unless it is named here or by the caller.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

__all__ = ("chosen_variables", "own_modules")

_NAMES: Final = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"})
_PREFIX: Final = "LC_"
_SECRET_WORDS: Final = ("KEY", "TOKEN", "SECRET", "PASS")
_ROOT: Final = Path(__file__).parents[2]
"""The directory that holds this package. A new interpreter need not have it on its path."""


def chosen_variables(
    environ: Mapping[str, str], *, names: Collection[str] = (), prefixes: tuple[str, ...] = ()
) -> dict[str, str]:
    """The variables of `environ` that every program needs, those called `names`, and those that begin with `prefixes`.

    A variable that is chosen by its prefix alone is left out if its name looks like that of a secret: NVIDIA_API_KEY.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in _NAMES
        or name in names
        or (name.startswith((_PREFIX, *prefixes)) and not any(word in name for word in _SECRET_WORDS))
    }


def own_modules(environ: Mapping[str, str]) -> dict[str, str]:
    """What lets a Python process of ours import this library: PYTHONPATH, with the one of `environ` behind.

    Not for programs of others: they may run in another Python installation, which must not see our packages.
    """
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH"))))}
