"""Requests that were alone in engines when these died. Pure: times are arguments, in seconds of any one clock.

One quarantine for each model. It knows the requests by the numbers under which engines are told of them, so that it can
take in a `Death`, and by a fingerprint, so that it recognizes a request that comes again.
"""

from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from neuron_lib.supervision.death import Death
from neuron_lib.types import Chat, Task, Tokenize, UnreadArray, UnreadObject

__all__ = ("Quarantine", "fingerprint")

_Task = TypeVar("_Task", bound=Struct)

_MOST_LEFT: Final = 1024
"""More requests than any engine works on at once, so the fingerprints of all whose clients left it are remembered."""


def fingerprint(task: Task) -> bytes | None:
    """A digest of all that an engine does for a task, the same for each repetition.

    None for what no frame can hold, see `neuron_lib.engine.protocol.encode_frame`: such a task is refused anyway.
    """
    if isinstance(task, Tokenize) and isinstance(task.prompt, Chat):
        task = msgspec.structs.replace(task, prompt=_told(task.prompt))
    told = type(task).__name__, _told(task)
    try:
        return blake2b(msgspec.msgpack.encode(told, enc_hook=_as_text), digest_size=16).digest()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def _told(task: _Task) -> _Task:
    """The task without what changes nothing in an engine: who asks, by which id, and how the reply is given out."""
    untold = {"model_id": "", "principal": None, "request_id": "", "hops": 0, "whole": False, "include_thinking": False}
    return msgspec.structs.replace(
        task, **{name: value for name, value in untold.items() if name in task.__struct_fields__}
    )


def _as_text(value: object) -> object:
    if isinstance(value, UnreadArray | UnreadObject):
        return value.text
    raise TypeError(f"{type(value).__name__} has no place in a request")


@dataclass(slots=True)
class Quarantine:
    """Remembers for `window_s` which deaths a request was alone with, for the `most` latest such requests, as digests.

    Of several requests that an engine died with none is remembered, because all but one of them are innocent.
    """

    window_s: float = 600.0
    most: int = 64
    _open: dict[int, Task] = field(default_factory=dict)
    _left: dict[int, bytes] = field(default_factory=dict)  # whose client has left, and which an engine may work on
    _deaths: dict[bytes, deque[tuple[float, str]]] = field(default_factory=dict)

    def enter(self, number: int, task: Task) -> None:
        """Engines will be told of `task` under this number."""
        self._open[number] = task

    def leave(self, number: int, *, may_be_at_work: bool) -> None:
        """Nobody waits for the task any more. An engine that may still work on it may still die of it."""
        task = self._open.pop(number, None)
        digest = fingerprint(task) if may_be_at_work and task is not None else None
        if digest is not None:
            self._left[number] = digest
            if len(self._left) > _MOST_LEFT:
                del self._left[next(iter(self._left))]

    def take_in(self, death: Death, *, now_s: float) -> None:
        """An engine has died. If it worked on one request alone, that request is remembered."""
        if len(death.requests) == 1:
            (number,) = death.requests
            task = self._open.get(number)
            key = self._left.get(number) if task is None else fingerprint(task)
            if key is not None:
                self._remember(key, death.reason, now_s=now_s)
        self._left.clear()  # they were in that engine, or had ended before

    def _remember(self, key: bytes, reason: str, *, now_s: float) -> None:
        deaths = self._deaths.pop(key, None) or deque(maxlen=2)
        deaths.append((now_s, reason))
        self._deaths[key] = deaths
        if len(self._deaths) > self.most:
            del self._deaths[next(iter(self._deaths))]

    def verdict(self, task: Task, *, now_s: float) -> tuple[str, str] | None:
        """The two deaths for which a task is not tried any more; None for all others."""
        if not self._deaths:
            return None  # The usual case. Returning here avoids hashing the whole conversation.
        deaths = self._deaths.get(fingerprint(task) or b"", ())
        recent = [reason for time_s, reason in deaths if now_s - time_s < self.window_s]
        return (recent[0], recent[1]) if len(recent) > 1 else None
