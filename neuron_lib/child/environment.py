"""The environment variables of a child process: only those that it needs. Pure.

The daemon's environment has tokens and keys, which a child must not see. So every variable is left out unless this
module or the caller names it.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

__all__ = ("DEVICE_PREFIXES", "chosen_variables", "own_modules")

DEVICE_PREFIXES: Final = ("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ONEAPI_", "SYCL_", "ZE_", "VK_", "OMP_")
"""What variables for the software of GPUs and of threads begin with."""
_NAMES: Final = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"})
_PREFIX: Final = "LC_"
_SECRET_WORDS: Final = ("KEY", "TOKEN", "SECRET", "PASS")
_ROOT: Final = Path(__file__).parents[2]
"""The directory of this package. It may be missing from the path of a new interpreter."""


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
    """PYTHONPATH for a Python process of ours, so that it can import this library. The path of `environ` comes last.

    Not for other programs: they may run in another Python installation, which must not see our packages.
    """
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH"))))}
