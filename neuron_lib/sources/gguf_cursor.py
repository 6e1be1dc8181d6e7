"""Walks forward over a header whose counts and lengths may be wrong. Pure: it asks for bytes, a window at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final, TypeAlias

from neuron_lib.sources.gguf_types import U64

__all__ = ("Cursor", "MalformedGguf", "ReadAt")

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""`read_at(offset, count)` returns `count` bytes from `offset` on. It returns fewer only where the file ends."""

_LARGEST_HEADER_BYTES: Final = 128 << 20
"""Several times the size of the largest vocabularies. Bounds the time that a hostile file can take."""
_WINDOW_BYTES: Final = 64 << 10


class MalformedGguf(ValueError):
    """The file cannot be loaded as a GGUF. The message says where and what is wrong."""


@dataclass(slots=True)
class Cursor:
    """Walks over a header through a window of its bytes. `place` is the part that an error will name."""

    read_at: ReadAt
    size_bytes: int
    place: str = "the header"
    _window: bytes = field(default=b"", init=False)
    _window_offset: int = field(default=0, init=False)
    _at: int = field(default=0, init=False)  # relative to the window, perhaps outside of it

    @property
    def offset(self) -> int:
        return self._window_offset + self._at

    def error(self, problem: str) -> MalformedGguf:
        return MalformedGguf(f"{self.place} (near byte {min(self.offset, self.size_bytes)}) {problem}")

    def require(self, count: int) -> None:
        """Raise `MalformedGguf` unless the header may have `count` more bytes."""
        end = self.offset + count
        if end > self.size_bytes:
            raise self.error(f"needs {end} bytes of the file, but it has {self.size_bytes}")
        if end > _LARGEST_HEADER_BYTES:
            raise self.error(f"ends at byte {end}; a header may have {_LARGEST_HEADER_BYTES} bytes")

    def seek(self, offset: int) -> None:
        self._at = offset - self._window_offset

    def skip(self, count: int) -> None:
        self.require(count)
        self._at += count

    def skip_texts(self, count: int) -> None:
        """Skip `count` strings. A vocabulary has about 100,000 of them, so this loop takes most of the time."""
        self.require(count * U64.size)
        length_at = U64.unpack_from
        window, at, last = self._window, self._at, len(self._window) - U64.size
        for _ in range(count):
            if at > last:
                self._at = at
                self._fill(U64.size)
                window, at, last = self._window, self._at, len(self._window) - U64.size
            at += U64.size + length_at(window, at)[0]
        self._at = at
        self.require(0)

    def take(self, count: int) -> bytes:
        self._fill(count)
        start, self._at = self._at, self._at + count
        return self._window[start : self._at]

    def scalar(self, layout: Struct) -> Any:
        (value,) = layout.unpack(self.take(layout.size))
        return value

    def name(self, *, longest: int) -> bytes:
        """Read a string for which the format sets a short limit."""
        count: int = self.scalar(U64)
        if count > longest:
            raise self.error(f"has a name of {count} bytes; {longest} are allowed")
        return self.take(count)

    def _fill(self, count: int) -> None:
        """Make the window contain `count` bytes from the current position on."""
        if 0 <= self._at <= len(self._window) - count:
            return
        self.require(count)
        offset = self.offset
        self._window = self.read_at(offset, min(max(count, _WINDOW_BYTES), self.size_bytes - offset))
        self._window_offset, self._at = offset, 0
        if len(self._window) < count:
            raise self.error("cannot be read: the file became shorter meanwhile")
