"""Model files that are already on this machine's disk. Blocking. Opens no file: it only looks where they are."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("find_any_path", "find_local_file", "find_local_folder", "find_local_model")

_FIRST_PART: Final = re.compile(r"(?P<stem>.*)-00001-of-(?P<count>[0-9]{5})\.gguf")


def find_local_model(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> tuple[Path, ...]:
    """The file `path`. If its name is that of the first part of a split model, the files of the other parts as well.

    Raises `PreflightFailed` for each of them, like `find_local_file`.
    """
    first = find_local_file(path, roots=roots, model_id=model_id)
    match = _FIRST_PART.fullmatch(first.name)
    count = int(match["count"]) if match else 1
    others = (f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(2, count + 1)) if match else ()
    return first, *(find_local_file(str(first.with_name(n)), roots=roots, model_id=model_id) for n in others)


def find_local_folder(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> tuple[Path, ...]:
    """The files of a model in safetensors whose folder is `path`, `config.json` first. Raises `PreflightFailed`."""
    config = find_local_file(f"{path.rstrip('/')}/config.json", roots=roots, model_id=model_id)
    others = sorted(each for each in config.parent.iterdir() if each.is_file() and each != config)
    if not any(each.suffix == ".safetensors" for each in others):
        message = f"{path} has a config.json and no file of safetensors"
        raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id)
    return config, *others


def find_any_path(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> Path:
    """The file or folder `path`, whatever is in it. Raises `PreflightFailed` like `find_local_file`."""
    return _found(path, roots=roots, model_id=model_id, is_it=os.path.exists, why_not=lambda _path: "is not there")


def find_local_file(path: str, *, roots: Sequence[str | Path] | None, model_id: str) -> Path:
    """The path of the regular file `path`. After all links it must be below one of `roots`; None allows every place.

    The path itself is returned, because parts of a split model are found by their names, and the names behind links may
    be hashes. Raises `PreflightFailed`. For a path outside the roots the error does not tell whether the file exists.
    """
    return _found(path, roots=roots, model_id=model_id, is_it=os.path.isfile, why_not=_why_no_file)


def _found(
    path: str,
    *,
    roots: Sequence[str | Path] | None,
    model_id: str,
    is_it: Callable[[Path], bool],
    why_not: Callable[[str], str],
) -> Path:
    real = Path(os.path.realpath(path.replace("\0", "")))
    if not path.startswith("/") or "\0" in path:
        problem = "is not an absolute path"
    elif roots is not None and not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        problem = "is not below any of local_roots"
    elif not is_it(real):  # a method of Path would raise where a directory may not be entered
        problem = why_not(path)
    else:
        return Path(path)
    raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, f"{path} {problem}", model_id=model_id)


def _why_no_file(path: str) -> str:
    """Why there is no model file, for a person who has named it, with the next step."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a directory may not be entered
        return "is a directory; name a .gguf file in it"
    stem, colon, _ = path.rpartition(".gguf:")
    if colon:
        return f"is not there; a file has one quant, so name the file alone: {stem}.gguf"
    return "is not there, or is no regular file; look at the spelling, and at the directory where the path begins"
