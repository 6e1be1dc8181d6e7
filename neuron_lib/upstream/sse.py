"""Cuts the bytes of a stream of server-sent events into the data of its events. Pure.

Follows the format of the HTML standard: lines end with LF, CR or CR LF, an empty line ends an event, several `data:`
lines of one event are joined. Event names, ids and comments mean nothing to the APIs that are read here.
"""

import re
from collections.abc import Iterator
from typing import Final

__all__ = ("MAX_EVENT_BYTES", "EventTooLong", "SseReader")

MAX_EVENT_BYTES: Final = 8 << 20
"""The longest event. A call of a tool with a long text is one event at some servers."""
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event has more bytes than may be kept."""


class SseReader:
    """Takes the bytes of one stream as they come. The data of an event is given when its last line is there."""

    def __init__(self, *, most_bytes: int = MAX_EVENT_BYTES) -> None:
        """An event may have `most_bytes`."""
        self._most_bytes: Final = most_bytes
        self._pending = bytearray()
        self._searched = 0  # bytes of `_pending` without the end of a line
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._is_first_line = True

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that `piece` completes. Raises `EventTooLong`."""
        self._pending += piece
        while (found := _LINE_END.search(self._pending, self._searched)) is not None:
            if found.group() == b"\r" and found.end() == len(self._pending):
                break  # its LF may be the next byte
            line = bytes(self._pending[: found.start()])
            del self._pending[: found.end()]
            self._searched = 0
            data = self._take(line)
            if data is not None:
                yield data
        else:
            self._searched = len(self._pending)
        if len(self._pending) + self._data_bytes > self._most_bytes:
            raise EventTooLong(f"an event of the stream is longer than {self._most_bytes} bytes")

    def end(self) -> Iterator[bytes]:
        """What the end of the stream completes. An event without its empty line counts: some servers leave it out."""
        line = bytes(self._pending).rstrip(b"\r")
        self._pending.clear()
        self._searched = 0
        for each in (line, b"") if line else (b"",):
            data = self._take(each)
            if data is not None:
                yield data

    def _take(self, line: bytes) -> bytes | None:
        """The data of the event that this line ends."""
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            data = b"\n".join(self._data) if self._data else None
            self._data, self._data_bytes = [], 0
            return data
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._most_bytes:
                raise EventTooLong(f"an event of the stream is longer than {self._most_bytes} bytes")
        return None
