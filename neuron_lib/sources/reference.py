"""Reads model ids. Knows the grammar `[scheme:]org/name` and nothing about which schemes or models exist."""

import re
from typing import Final

from msgspec import Struct

from neuron_lib.errors import InvalidModelId
from neuron_lib.shown import clip

__all__ = ("ModelReference", "parse_reference")

_LONGEST: Final = 256
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SCHEME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class ModelReference(Struct, frozen=True):
    """A model id taken apart. `scheme` is None where the id leaves the choice to the default source."""

    scheme: str | None
    org: str
    name: str

    @property
    def public_id(self) -> str:
        """The id the model is published under, whatever source it comes from (contract §3.1)."""
        return f"{self.org}/{self.name}"


def parse_reference(text: str) -> ModelReference:
    """Take `[scheme:]org/name` apart. Raises `InvalidModelId` quoting the input (contract §3.1).

    Names may have further `/`-separated parts. No part can start with a dot, so none can climb out of a directory.
    """
    scheme, colon, path = text.partition(":") if ":" in text else ("", "", text)
    org, slash, name = path.partition("/")
    violations = (
        (len(text) > _LONGEST, f"is longer than {_LONGEST} characters"),
        (not text, "is empty"),
        (colon and not scheme, "has nothing before its colon"),
        ("/" in scheme, "has a slash before its colon"),
        (scheme and not _SCHEME.fullmatch(scheme), "has a source name that is not letters, digits and . _ + -"),
        (not slash, "has no slash: expected org/name"),
        (not org, "has nothing before its slash"),
        (not name, "has nothing after its slash"),
        (":" in path, "has a second colon"),
        (
            not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")),
            "has a part that is not letters, digits and . _ - with a letter or digit in front",
        ),
    )
    for is_violated, problem in violations:
        if is_violated:
            raise InvalidModelId(f"model id {clip(text)!r} {problem}", model_id=text)
    return ModelReference(scheme or None, org, name)
