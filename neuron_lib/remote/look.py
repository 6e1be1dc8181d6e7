"""What an answer to the question for a server's models says about the server. Pure."""

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from neuron_lib.remote.listing import Listed, find

__all__ = ("Look", "Seen", "see")

_REFUSED: Final = frozenset({401, 403, 404})
_TOO_MANY: Final = 429


class Look(Enum):
    """What a look at a server has shown."""

    GOOD = auto()
    """It has the model, or is there and answers too many questions."""
    AWAY = auto()
    """It cannot be reached."""
    REFUSES = auto()
    """It does not accept the key, or has the model no more."""
    UNWELL = auto()
    """It answers, but that it has failed; or it gives no answer in time."""


class Seen(Struct, frozen=True):
    """A look, the `reason` if it is not good, and the model as it is `listed` there."""

    look: Look
    reason: str = ""
    listed: Listed | None = None


def see(status: int, body: bytes, model: str) -> Seen:
    """What an answer to `GET /v1/models` shows. `model` is the server's name for the model."""
    if status in _REFUSED:
        return Seen(Look.REFUSES, f"it answers {status}")
    if status == _TOO_MANY:
        return Seen(Look.GOOD)
    if status != 200:
        return Seen(Look.UNWELL, f"it answers {status}")
    try:
        listed = find(body, model)
    except ValueError:
        return Seen(Look.UNWELL, "its list of models cannot be read")
    return Seen(Look.GOOD, listed=listed) if listed is not None else Seen(Look.REFUSES, "it has the model no more")
