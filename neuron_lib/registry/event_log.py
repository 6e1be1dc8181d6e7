"""The last events of one host, numbered, and the readers who follow them. Keeps a bounded number of events.

Knows nothing of models: `reporter` decides what is an event.
"""

import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Self

from anyio.lowlevel import checkpoint

from neuron_lib.changes import Changes
from neuron_lib.types import (
    GapEvent,
    HostEvent,
    HostStateEvent,
    ModelEvent,
    ProgressEvent,
    RejectionEvent,
    ReloadEvent,
    ReplyEvent,
    RestartEvent,
)

__all__ = ("START", "EventLog", "HostEvents", "is_event_id")

START: Final = "start"
"""In place of the id of an event: the place before the oldest event that is kept."""

_MOST: Final = 256
"""Events of each kind that are kept. A flood of one kind does not push out events of another kind."""
_EPOCH_BYTES: Final = 4
_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")
_KINDS: Final = (HostStateEvent, ModelEvent, ProgressEvent, RestartEvent, RejectionEvent, ReplyEvent, ReloadEvent)


def is_event_id(text: str) -> bool:
    """Whether `text` has the form of an event's id. The event need not be known."""
    return _ID.fullmatch(text) is not None


class EventLog:
    """The last events of one host. Belongs to one event loop. Methods without `async` never wait.

    The id of an event is a random word, which is another one for each log, and the number of the event.
    """

    def __init__(self, *, unix_s: Callable[[], float] = time.time) -> None:
        """`unix_s` gives seconds of Unix time."""
        self._epoch = secrets.token_hex(_EPOCH_BYTES)
        self._unix_s = unix_s
        self._number = 0  # of the last event
        self._dropped = 0  # the highest number of an event that is no longer kept and was not replaced
        self._kept: dict[type, dict[Hashable, tuple[int, HostEvent]]] = {kind: {} for kind in _KINDS}
        self._changes = Changes()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<EventLog at {self._id(self._number)}>"

    def add(self, make: Callable[..., HostEvent]) -> None:
        """Keep the event that `make(id=…, at=…)` returns, and wake the readers.

        An event of progress takes the place of the earlier one of the same stage of the same load.
        """
        self._number += 1
        event = make(id=self._id(self._number), at=round(self._unix_s(), 3))
        kept = self._kept[type(event)]
        key: Hashable = self._number
        if isinstance(event, ProgressEvent):
            key = event.model_id, event.progress.stage
            kept.pop(key, None)
        kept[key] = self._number, event
        if len(kept) > _MOST:
            number, _ = kept.pop(next(iter(kept)))
            self._dropped = max(self._dropped, number)
        self._changes.notify()

    def kept(self) -> tuple[HostEvent, ...]:
        """All events that are kept, oldest first."""
        return self._since(0)

    def close(self) -> None:
        """There will be no further events. Readers end when they have read all events."""
        self._is_closed = True
        self._changes.notify()

    def read(self, after: str | None = None) -> "HostEvents":
        """A reader of the events after the one with the id `after`: see `Registry.events`."""
        if after is None:
            return HostEvents(self, number=self._number)
        if after == START:
            return HostEvents(self, number=0)
        match = _ID.fullmatch(after)
        if match is None or match[1] != self._epoch or int(match[2]) > self._number:
            return HostEvents(self, number=0, has_missed=True)
        return HostEvents(self, number=int(match[2]))

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _since(self, number: int) -> tuple[HostEvent, ...]:
        """The events that are kept and whose numbers are higher, in order."""
        found: list[tuple[int, HostEvent]] = []
        for kept in self._kept.values():
            for each in reversed(kept.values()):
                if each[0] <= number:
                    break
                found.append(each)
        return tuple(event for _, event in sorted(found, key=lambda each: each[0]))

    def _gap(self, number: int) -> GapEvent:
        return GapEvent(id=self._id(number), at=round(self._unix_s(), 3))


class HostEvents:
    """The events of one host from one place on, as they come. For one task. Needs no closing.

    Iterate, or call `next_batch`. Both end when the registry has been left and all its events have been read. A reader
    that is slower than the events gets a `GapEvent` in the place of those that it has missed.
    """

    def __init__(self, log: EventLog, *, number: int, has_missed: bool = False) -> None:
        """`number` is that of the last event that the reader knows. `has_missed`: the first event is a `GapEvent`."""
        self._log = log
        self._number = number
        self._has_missed = has_missed
        self._pending: deque[HostEvent] = deque()

    @property
    def last_id(self) -> str | None:
        """The id after which this reader goes on. None while it has missed events and was not told so."""
        return None if self._has_missed else self._log._id(self._number)

    async def next_batch(self) -> tuple[HostEvent, ...]:
        """All events since the last call, in order. Waits until there is one. Empty at the end."""
        await checkpoint()
        # There is no other task between the last look and the wait, and a cancelled wait takes no event.
        while not (batch := self._take()) and not self._log._is_closed:
            await self._log._changes.wait()
        return batch

    def _take(self) -> tuple[HostEvent, ...]:
        log, number = self._log, self._number
        gap = (log._gap(number),) if self._has_missed or number < log._dropped else ()
        self._number, self._has_missed = log._number, False
        return gap + log._since(number)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> HostEvent:
        if not self._pending:
            self._pending.extend(await self.next_batch())
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.popleft()
