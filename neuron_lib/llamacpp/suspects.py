"""Requests that were alone in engines when these died. Pure: times are arguments, in seconds of any one clock."""

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from neuron_lib.types import ChatRequest, UnreadArray, UnreadObject

__all__ = ("Suspects", "fingerprint")


def fingerprint(request: ChatRequest) -> bytes | None:
    """A digest of all that an engine is told of a request, the same for each repetition.

    None for what no frame can hold, see `neuron_lib.engine.protocol.encode_frame`: it is refused for that by itself.
    """
    # Who asks, and how the reply is given out, is not for the engine.
    told = msgspec.structs.replace(request, model_id="", principal=None, whole=False, include_thinking=False)
    try:
        return blake2b(msgspec.msgpack.encode(told, enc_hook=_as_text), digest_size=16).digest()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def _as_text(value: object) -> object:
    if isinstance(value, UnreadArray | UnreadObject):
        return value.text
    raise TypeError(f"{type(value).__name__} has no place in a request")


@dataclass(slots=True)
class Suspects:
    """Remembers for `window_s` which deaths each of them was alone with: the `most` latest of them, and no text."""

    window_s: float = 600.0
    most: int = 64
    _deaths: dict[bytes, deque[tuple[float, str]]] = field(default_factory=dict)

    def accuse(self, key: bytes | None, death: str, *, now_s: float) -> None:
        """An engine has died, how is `death`, while it worked on the request of this fingerprint and on no other."""
        if key is None:
            return
        deaths = self._deaths.pop(key, None) or deque(maxlen=2)
        deaths.append((now_s, death))
        self._deaths[key] = deaths
        if len(self._deaths) > self.most:
            del self._deaths[next(iter(self._deaths))]

    def verdict(self, request: ChatRequest, *, now_s: float) -> tuple[str, str] | None:
        """The two deaths for which a request is not tried any more; None for all others."""
        if not self._deaths:
            return None  # as ever, and so no long conversation need be read for it
        deaths = self._deaths.get(fingerprint(request) or b"", ())
        recent = [death for time_s, death in deaths if now_s - time_s < self.window_s]
        return (recent[0], recent[1]) if len(recent) > 1 else None
