"""Checks a token for a hub. Pure."""

import re
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("stripped", "usable_token")

_SENDABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


def stripped(text: str | None) -> str | None:
    """A token without white space around it, because files often end in a line break. None if it is empty."""
    return (text or "").strip() or None


def usable_token(text: str | None, *, place: str | None, model_id: str) -> str | None:
    """A token that can be sent in a header, where it is one word. None if there is none.

    Raises `PreflightFailed`, which says where the token comes from and never what it is.
    """
    token = stripped(text)
    if token is None or _SENDABLE.fullmatch(token):
        return token
    problem = "it has white space in its middle, or characters that no HTTP header can hold"
    if len(token) > 4096:
        problem = "it is longer than 4096 characters"
    cause = f"the token in {place or 'its source'} cannot be sent: {problem}"
    kind = PreflightKind.REPO_FETCH_FAILED
    raise PreflightFailed(kind, f"{model_id}: {cause}; no hub was asked", model_id=model_id, cause=cause)
