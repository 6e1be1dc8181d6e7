"""The types of fields that several APIs have. Pure."""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

__all__ = ("THE_ONLY_MODEL", "CountOrDefault", "ModelId", "ModelIdOrNone", "StopText", "TokenId")

ModelId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
"""The id of a model, as the client writes it."""

ModelIdOrNone: TypeAlias = Annotated[str, Meta(max_length=1024)]
"""The id of a model, or `THE_ONLY_MODEL`."""

THE_ONLY_MODEL: Final = ""
"""The id in a task that leaves the model to the host, which must have exactly one resident model."""

TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]

StopText: TypeAlias = Annotated[str, Meta(max_length=1024)]
"""A text that ends a reply."""

CountOrDefault: TypeAlias = Annotated[int, Meta(ge=-1)]
"""A number of tokens; -1 asks for the default."""
