"""Model files that are already on this machine's disk. Blocking. Opens no file: it only looks where they are."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("find_local_file", "find_local_model")

_FIRST_PART: Final = re.compile(r"(?P<stem>.*)-00001-of-(?P<count>[0-9]{5})\.gguf")


def find_local_model(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> tuple[Path, ...]:
    """Return the file `path`, and if its name is that of the first part of a split model, those of the other parts.

    Raises `PreflightFailed` as `find_local_file` does, for each of them.
    """
    first = find_local_file(path, roots=roots, model_id=model_id)
    match = _FIRST_PART.fullmatch(first.name)
    count = int(match["count"]) if match else 1
    others = (f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(2, count + 1)) if match else ()
    return first, *(find_local_file(str(first.with_name(n)), roots=roots, model_id=model_id) for n in others)


def find_local_file(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> Path:
    """Return the path of the regular file `path`, which must be below one of `roots` once links are followed.

    `roots` None allows every place: a program names its own files.

    The path stays as given: parts of a split model are found by their names, and the real ones may be hashes. Raises
    `PreflightFailed`; outside the roots it does not tell whether the file exists.
    """
    real = Path(os.path.realpath(path.replace("\0", "")))
    if not path.startswith("/") or "\0" in path:
        problem = "is not an absolute path"
    elif roots is not None and not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        problem = "is not below any of local_roots"
    elif not os.path.isfile(real):  # noqa: PTH113 - Path.is_file raises where a directory may not be entered
        problem = "is not there, or is no regular file"
    else:
        return Path(path)
    raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, f"{path} {problem}", model_id=model_id)
