"""How the ids of models are written, and which ids mean the same model.

The functions here accept any text and refuse nothing. `sources.reference` refuses impossible ids.
"""

import re
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

__all__ = ("HUB_SCHEME", "IdParts", "is_same_quant", "names_file", "names_model", "public_id", "take_apart")

HUB_SCHEME: Final = "huggingface"
"""The source that is always there, whatever is configured."""

_LONGEST: Final = 1024
"""Characters. A longer text is not an id and is not taken apart."""
_WEB: Final = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_VIEWS: Final = frozenset({"tree", "blob", "resolve", "raw"})
"""The words that may follow a repository in the address of a page: `org/name/blob/main/file`."""
_PATH_BEGINNINGS: Final = ("/", "./", "../")
_DEFAULT_QUANT: Final = "latest"
"""Clients of Ollama add this word to an id without a quant."""


class IdParts(Struct, frozen=True):
    """The parts of `[scheme:]path[:quant]`. A correct `path` is `org/name`, which is not checked here.

    `is_web` says that the id was an address of the hub's pages. Such an address may name a `revision`.
    """

    scheme: str | None
    path: str
    quant: str | None = None
    revision: str | None = None
    is_web: bool = False


def take_apart(text: str) -> IdParts:
    """Split an id into its parts.

    A colon before the first slash ends the name of a source. A colon after it begins a quant. An address of
    huggingface.co or hf.co means the source `huggingface`, and a file in such an address is the quant.
    """
    if len(text) > _LONGEST:
        return IdParts(None, text)
    if (web := _WEB.match(text)) is not None:
        return _from_web(text[web.end() :])
    head, colon, rest = text.partition(":")
    scheme, place = (head, rest) if colon and "/" not in head else (None, text)
    path, colon, quant = place.partition(":")
    return IdParts(scheme, path, _quant(quant) if colon else None)


def _from_web(place: str) -> IdParts:
    place, colon, quant = unquote(re.split("[?#]", place, maxsplit=1)[0]).partition(":")
    parts = place.rstrip("/").split("/")
    path, revision = "/".join(parts), None
    if len(parts) > 2 and parts[2] in _VIEWS:
        path, inner = "/".join(parts[:2]), parts[3:]
        revision = inner[0] if inner else None
        if not colon and inner[1:]:
            colon, quant = ":", "-".join(inner[1:])  # the selection of files ignores what is between the words
    return IdParts(HUB_SCHEME, path, _quant(quant) if colon else None, revision, is_web=True)


def _quant(text: str) -> str | None:
    return None if text.lower() == _DEFAULT_QUANT else text


def public_id(model_id: str) -> str:
    """The id that lists and answers show: without source and address, and with the quant if the id has one.

    `helexa:org/name` is published as `org/name`, and `hf.co/org/name:Q4_K_M` as `org/name:Q4_K_M`. Accepts any text,
    because a default model with an impossible id must still be reported under some name.
    """
    parts = take_apart(model_id)
    if not parts.path:
        return model_id
    return parts.path if parts.quant is None else f"{parts.path}:{parts.quant}"


def names_file(text: str) -> bool:
    """Whether a person who writes `text` for a model means a file: `/m`, `./m`, `../m`, or `m.gguf` without a colon."""
    if text.startswith(_PATH_BEGINNINGS):
        return True
    return text.lower().endswith(".gguf") and ":" not in text and not take_apart(text).is_web


def names_model(asked: str, model_id: str, *, quant: str | None) -> bool:
    """Whether `asked` means the model that was loaded as `model_id` with `quant`.

    The repository must be the same. The quant must be the same if `asked` has one.
    """
    wanted, there = take_apart(asked), take_apart(model_id)
    if wanted.path != there.path:
        return False
    return wanted.quant is None or is_same_quant(wanted.quant, there.quant or quant or "")


def is_same_quant(one: str, other: str) -> bool:
    """Whether two texts name the same quant. Case and separators do not matter, as in the selection of files."""
    return _squashed(one) == _squashed(other)


def _squashed(quant: str) -> str:
    return re.sub(r"[\W_]", "", quant.lower())
