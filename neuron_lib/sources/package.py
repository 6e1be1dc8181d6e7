"""Model files inside an installed Python package. Blocking. Runs none of the package's code."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.os_errors import file_error

__all__ = ("find_package_file",)

_PLACE: Final = re.compile(r"(?P<package>[A-Za-z_][A-Za-z0-9_]*)/(?P<inner>[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*)")


def find_package_file(place: str, *, model_id: str) -> Path:
    """The path of the file `package/inner/path.gguf`. `package` is a top-level package.

    Raises `PreflightFailed` if the package is not installed or has no such file, `SourceUnavailable` while the host is
    out of descriptors or memory.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        problem = f"{place!r} is not of the form package/path/to/file.gguf"
        raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, problem, model_id=model_id)
    try:
        directories = _directories(match["package"])
    except OSError as error:  # a directory of `sys.path` cannot be read
        message = f"installed Python packages cannot be looked through: {error.strerror or error}"
        raise file_error(error, message, model_id=model_id) from error
    for directory in directories:
        path = directory / match["inner"]
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            return path
    problem = f"no installed Python package {match['package']!r} has a file {match['inner']!r}"
    raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, problem, model_id=model_id)


def _directories(package: str) -> list[Path]:
    try:
        spec = find_spec(package)  # a top-level package is found without being imported
    except (ImportError, ValueError):  # ValueError: a module that is loaded but has no spec, such as __main__
        return []
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
