"""Chooses the files of a model by the format that an engine loads. Pure: files in, files or a refusal out.

`selection` knows GGUF. A model in safetensors is a whole folder: the weights, the configuration, and the tokenizer.
Code that comes with a model is not fetched.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from msgspec import Struct

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.foreign_text import one_line
from neuron_lib.sources.repository import RepoFile, is_safe_path
from neuron_lib.sources.selection import list_models, select_gguf

__all__ = ("FILE", "GGUF", "SAFETENSORS", "Chosen", "format_at", "format_of", "select_files")

GGUF: Final = "gguf"
SAFETENSORS: Final = "safetensors"
FILE: Final = "file"
"""Whatever the `path` of a model names on this machine. No hub is asked for it."""

_CONFIG: Final = "config.json"
_MOST_FILES: Final = 1000
_BESIDE: Final = re.compile(
    r"[^/]+\.(?:json|model|txt|jinja|tiktoken)|[^/]+/(?:config|sentence_bert_config)\.json", re.IGNORECASE
)
"""Files that an engine reads beside the weights, by their paths."""
_WEIGHTS: Final = re.compile(r"(?!adapter_model)[^/]+\.safetensors", re.IGNORECASE)
_ORIGINAL: Final = re.compile(r"consolidated[^/]*", re.IGNORECASE)
"""The same weights again, in the form of the model's authors."""
_PART: Final = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors", re.IGNORECASE)


class Chosen(Struct, frozen=True):
    """The files of one model, and their format. The folder of the first one is that of a model in safetensors."""

    files: tuple[RepoFile, ...]
    format: str


def format_of(files: Sequence[RepoFile]) -> str | None:
    """The format of the models in a repository. GGUF counts before safetensors. None if there is none that is known."""
    if list_models(files):
        return GGUF
    return SAFETENSORS if _is_safetensors(files) else None


def format_at(path: PurePath) -> str:
    """The format of a model at this path, by its name alone: a folder has no suffix, as a rule."""
    return GGUF if path.suffix.lower() == ".gguf" else SAFETENSORS if not path.suffix else FILE


def select_files(
    files: Sequence[RepoFile],
    *,
    formats: Sequence[str],
    quant: str | None,
    model_id: str,
    room_bytes: int | None = None,
) -> Chosen:
    """Choose the files of the first of `formats` that a repository has.

    `quant` and `room_bytes` choose among GGUF files (`select_gguf`). Raises `PreflightFailed`.
    """
    found = format_of(files)
    for wanted in formats:
        if wanted == SAFETENSORS and (_is_safetensors(files) or GGUF not in formats):
            return _safetensors(files, quant=quant, found=found, model_id=model_id)
        if wanted == GGUF and (found == GGUF or SAFETENSORS not in formats):
            selection = select_gguf(files, quant=quant, model_id=model_id, room_bytes=room_bytes)
            return Chosen(selection.files, GGUF)
    raise PreflightFailed(
        PreflightKind.UNSUPPORTED_MODEL,
        f"{model_id}: its engine loads files of this machine only; give the model a `path` in [[models]]",
        model_id=model_id,
    )


def _is_safetensors(files: Sequence[RepoFile]) -> bool:
    paths = {file.path for file in files}
    return _CONFIG in paths and any(map(_WEIGHTS.fullmatch, paths))


def _safetensors(files: Sequence[RepoFile], *, quant: str | None, found: str | None, model_id: str) -> Chosen:
    if not _is_safetensors(files):
        has = {GGUF: "has only GGUF weights"}.get(found or "", "has no safetensors weights beside a config.json")
        message = f"{model_id} {has}, and its engine loads safetensors"
        raise PreflightFailed(PreflightKind.UNSUPPORTED_MODEL, message, model_id=model_id)
    if quant is not None:
        raise PreflightFailed(
            PreflightKind.QUANT_NOT_FOUND,
            f"{model_id} has its weights as safetensors, among which no quant chooses: leave {quant!r} out",
            model_id=model_id,
            requested=quant,
            available=(),
            nearest=None,
        )
    weights = [file for file in files if _WEIGHTS.fullmatch(file.path) and is_safe_path(file.path)]
    weights = [file for file in weights if not _ORIGINAL.fullmatch(file.path)] or weights
    if (missing := _missing_part(weights)) is not None:
        message = f"{model_id}: a part of the model is missing: {one_line(missing)}"
        raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id, file=missing)
    beside = [file for file in files if _BESIDE.fullmatch(file.path) and is_safe_path(file.path)]
    chosen = sorted([*weights, *beside], key=lambda file: (file.path != _CONFIG, file.path))
    if len(chosen) > _MOST_FILES:
        message = f"{model_id} has {len(chosen)} files; a model in safetensors has {_MOST_FILES} at most"
        raise PreflightFailed(PreflightKind.UNSUPPORTED_MODEL, message, model_id=model_id)
    return Chosen(tuple(chosen), SAFETENSORS)


def _missing_part(weights: Sequence[RepoFile]) -> str | None:
    """The first part of weights in several parts that is not there."""
    paths = {file.path for file in weights}
    for path in sorted(paths):
        if part := _PART.fullmatch(path):
            numbers = range(1, min(int(part["count"]), _MOST_FILES) + 1)
            wanted = (f"{part['stem']}-{number:05}-of-{part['count']}.safetensors" for number in numbers)
            if (missing := next((name for name in wanted if name not in paths), None)) is not None:
                return missing
    return None
