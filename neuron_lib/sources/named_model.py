"""What a person means by a model: a GGUF file, an id of the configuration, or a repository on a hub. Pure.

Looks at no disk and asks no hub: whether the file or the repository exists is found out by a load.
"""

import os.path
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.config import ModelEntry
from neuron_lib.errors import InvalidModelId
from neuron_lib.shown import clip
from neuron_lib.sources.reference import parse_reference
from neuron_lib.types import names_file, public_id

__all__ = ("NamedModel", "find_named_model")

_FILE_ORG: Final = "local"
"""What stands before the slash in the id of a file."""
_SUFFIX: Final = ".gguf"
_PART: Final = re.compile(r"-[0-9]{5}-of-[0-9]{5}\Z")
_NO_PART_OF_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME: Final = 200
"""Characters. An id has 256 at most."""


class NamedModel(Struct, frozen=True, kw_only=True):
    """A model as a load names it. `entry` says where the model of a file is; None if the id alone is enough."""

    model_id: str
    entry: ModelEntry | None = None


def find_named_model(
    text: str,
    *,
    entries: Sequence[ModelEntry] = (),
    aliases: Mapping[str, str] | None = None,
    folder: Path,
) -> NamedModel:
    """Read `text` as a person meant it.

    In this order: a further name in `aliases` (from `[http] model_aliases`), the id of one of `entries`, a path, and
    `[source:]org/name[:quant]` or the address of a model on huggingface.co. A text is a path if it begins with `/`,
    `./` or `../`, or if it ends with `.gguf` and has no colon. A relative path begins at `folder`, which is absolute. A
    file that one of `entries` names has the id of that entry. Any other file has an id made of its name:
    `/models/Qwen3-8B-Q4_K_M.gguf` is `local/Qwen3-8B-Q4_K_M`.

    Raises `InvalidModelId` for a text that is none of these.
    """
    asked = (aliases or {}).get(text, text)
    if any(entry.id == public_id(asked) for entry in entries):
        return NamedModel(model_id=asked)
    if names_file(asked):
        return _file(Path(os.path.normpath(folder / asked)), entries)
    if "/" not in asked and asked:
        raise InvalidModelId(
            f"{clip(text)!r} is no model: give a GGUF file (./{clip(text)}{_SUFFIX}), org/name[:quant] of Hugging Face,"
            " or an id of the configuration",
            model_id=text,
        )
    parse_reference(asked)
    return NamedModel(model_id=asked)


def _file(path: Path, entries: Sequence[ModelEntry]) -> NamedModel:
    for entry in entries:
        if entry.path == path:
            return NamedModel(model_id=entry.id)
    name = _PART.sub("", path.name.removesuffix(path.suffix) if path.suffix.lower() == _SUFFIX else path.name)
    name = _NO_PART_OF_A_NAME.sub("-", name)[:_LONGEST_NAME].strip("._-") or "model"
    model_id = f"{_FILE_ORG}/{name}"
    return NamedModel(model_id=model_id, entry=ModelEntry(id=model_id, path=path))
