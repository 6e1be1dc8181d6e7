"""Reads model ids. Knows the grammar `[scheme:]org/name[:quant]`, and not which schemes or models exist."""

import re
from typing import Final

from msgspec import Struct

from neuron_lib.errors import InvalidModelId
from neuron_lib.shown import clip
from neuron_lib.types import is_same_quant, take_apart

__all__ = ("ModelReference", "parse_reference", "wanted_quant")

_LONGEST: Final = 256
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SCHEME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_WEB_HOSTS: Final = frozenset({"hf.co", "huggingface.co"})


class ModelReference(Struct, frozen=True):
    """A model id taken apart.

    `scheme` is None if the id names no source; the default source is meant then. `quant` is None if the id names no
    quant; the request, the `[[models]]` entry or the best default decides then.
    """

    scheme: str | None
    org: str
    name: str
    quant: str | None = None

    @property
    def repo_id(self) -> str:
        """The repository, whatever source it is on."""
        return f"{self.org}/{self.name}"

    @property
    def public_id(self) -> str:
        """The id under which the model is published: that of the client without its source."""
        return self.repo_id if self.quant is None else f"{self.repo_id}:{self.quant}"


def parse_reference(text: str) -> ModelReference:
    """Take `[scheme:]org/name[:quant]` apart, or the address of a model on huggingface.co or hf.co.

    Raises `InvalidModelId`, which quotes the input. Names may have further `/`-separated parts. No part can
    start with a dot, so none can climb out of a directory.
    """
    parts = take_apart(text)
    scheme, path, quant = parts.scheme, parts.path, parts.quant
    org, slash, name = path.partition("/")
    violations = (
        (len(text) > _LONGEST, f"is longer than {_LONGEST} characters"),
        (not text, "is empty"),
        ("://" in text and not parts.is_web, "is an address, but none of a model on huggingface.co"),
        (scheme == "", "has nothing before its colon"),
        (scheme and not _SCHEME.fullmatch(scheme), "has a source name that is not letters, digits and . _ + -"),
        (quant and (":" in quant or "/" in quant), "has a second colon"),
        (not slash, "has no slash: expected org/name"),
        (not org, "has nothing before its slash"),
        (not name, "has nothing after its slash"),
        (org.lower() in _WEB_HOSTS, "names a source and an address; one of them is enough"),
        (parts.is_web and "/" in name, "is an address, but none of a model on huggingface.co"),
        (
            parts.revision not in {None, "main"},
            "is the address of another revision than main: give it as `revision` of a `[[models]]` entry",
        ),
        (quant == "", "has nothing behind its last colon"),
        (
            not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")),
            "has a part that is not letters, digits and . _ - with a letter or digit in front",
        ),
        (
            quant and not _SEGMENT.fullmatch(quant),
            "has a quant that is not letters, digits and . _ - with a letter or digit in front",
        ),
    )
    for is_violated, problem in violations:
        if is_violated:
            raise InvalidModelId(f"model id {clip(text)!r} {problem}", model_id=text)
    return ModelReference(scheme or None, org, name, quant)


def wanted_quant(reference: ModelReference, asked: str | None) -> str | None:
    """The quant that an id or the request beside it names. Raises `InvalidModelId` if they name two."""
    asked = (asked or "").strip() or None
    if reference.quant is None or asked is None or is_same_quant(reference.quant, asked):
        return reference.quant or asked
    message = f"model id {reference.public_id!r} names a quant, and the request another: {clip(asked)!r}"
    raise InvalidModelId(message, model_id=reference.public_id)
