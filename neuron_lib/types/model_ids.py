"""How the ids of models are written, and which of them mean the same model. Takes any text and refuses nothing:
`sources.reference` does.
"""

import re
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

__all__ = ("HUB_SCHEME", "IdParts", "is_same_quant", "names_model", "public_id", "take_apart")

HUB_SCHEME: Final = "huggingface"
"""The source that there is always."""

_LONGEST: Final = 1024
"""What is longer is no id, and not worth the time to look into."""
_WEB: Final = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_VIEWS: Final = frozenset({"tree", "blob", "resolve", "raw"})
"""What stands behind a repository in the address of a page: `org/name/blob/main/file`."""
_DEFAULT_QUANT: Final = "latest"
"""What clients of Ollama add to an id that names no quant."""


class IdParts(Struct, frozen=True):
    """`[scheme:]path[:quant]`, where `path` is meant to be `org/name`.

    `is_web` tells an address of the hub's own pages, which may name a `revision`.
    """

    scheme: str | None
    path: str
    quant: str | None = None
    revision: str | None = None
    is_web: bool = False


def take_apart(text: str) -> IdParts:
    """Tell the parts of an id by their places: a colon before the first slash ends the name of a source, one behind it
    begins a quant. An address of huggingface.co or hf.co names the source `huggingface`, and a file of a repository its
    quant.
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
            colon, quant = ":", "-".join(inner[1:])  # words of a path are found whatever is between them
    return IdParts(HUB_SCHEME, path, _quant(quant) if colon else None, revision, is_web=True)


def _quant(text: str) -> str | None:
    return None if text.lower() == _DEFAULT_QUANT else text


def public_id(model_id: str) -> str:
    """The id that everybody else uses: without the source and without an address, and with the quant if one is named.

    `helexa:org/name` is published as `org/name`, and `hf.co/org/name:Q4_K_M` as `org/name:Q4_K_M`. Takes any text,
    because a default model with an impossible id must still be reported under some name.
    """
    parts = take_apart(model_id)
    if not parts.path:
        return model_id
    return parts.path if parts.quant is None else f"{parts.path}:{parts.quant}"


def names_model(asked: str, model_id: str, *, quant: str | None) -> bool:
    """Tell whether `asked` means the model that was loaded as `model_id` with `quant`: the repository is the same, and
    so is the quant unless none is asked for.
    """
    wanted, there = take_apart(asked), take_apart(model_id)
    if wanted.path != there.path:
        return False
    return wanted.quant is None or is_same_quant(wanted.quant, there.quant or quant or "")


def is_same_quant(one: str, other: str) -> bool:
    """Compare as the selection of files does: case and separators do not matter."""
    return _squashed(one) == _squashed(other)


def _squashed(quant: str) -> str:
    return re.sub(r"[\W_]", "", quant.lower())
