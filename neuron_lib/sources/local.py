"""Model files that are already on this machine's disk. Blocking. Opens nothing outside the configured roots."""

import os
from collections.abc import Sequence
from pathlib import Path

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("find_local_file",)


def find_local_file(path: str, *, roots: Sequence[Path], model_id: str) -> Path:
    """Return the real path of the regular file `path`, which must lie below one of `roots` once links are followed.

    Raises `PreflightFailed`; outside the roots it does not tell whether the file exists.
    """
    real = Path(os.path.realpath(path.replace("\0", "")))
    if not path.startswith("/") or "\0" in path:
        problem = "is not an absolute path"
    elif not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        problem = "is not below any of local_roots"
    elif not os.path.isfile(real):  # noqa: PTH113 - Path.is_file raises where a directory may not be entered
        problem = "is not there, or is no regular file"
    else:
        return real
    raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, f"{path} {problem}", model_id=model_id)
