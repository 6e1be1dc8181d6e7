"""Fetches the header of a GGUF file and nothing else, into a file that has the size of the whole. Blocking.

libllama reads such an outline in a dry run as it would read the whole file, because a dry run reads no weights. The
bytes behind the header are a hole, which takes no room on a disk.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from neuron_lib.sources.download import Body
from neuron_lib.sources.gguf_header import GgufHeader, parse_gguf_header

__all__ = ("OpenRange", "fetch_outline")

OpenRange = Callable[[int, int], AbstractContextManager[Body]]
"""`open_range(offset, count)` begins to read `count` bytes from `offset` on."""

_FIRST_BYTES: Final = 1 << 20
_MOST_BYTES: Final = 8 << 20
"""How much is asked for at once: little at first, and twice as much each time, because the length of a header is not
known before it has been read."""


def fetch_outline(
    open_range: OpenRange, path: Path, *, size_bytes: int, note_progress: Callable[[], None]
) -> GgufHeader:
    """Write the outline of a file of `size_bytes` to `path`, and return its header.

    `note_progress` is called after each answer. Raises `MalformedGguf` for a file whose header is none, `OSError`, and
    whatever `open_range` raises.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
        fetched = 0

        def read_at(offset: int, count: int) -> bytes:
            nonlocal fetched
            end = min(offset + count, size_bytes)
            while fetched < end:
                wanted = max(end - fetched, min(max(fetched, _FIRST_BYTES), _MOST_BYTES))
                got = _fetch(open_range, descriptor, offset=fetched, count=min(wanted, size_bytes - fetched))
                note_progress()
                if not got:
                    break  # the file is shorter than the hub has said; the parser says that it ends too early
                fetched += got
            return os.pread(descriptor, min(count, max(0, fetched - offset)), offset)

        return parse_gguf_header(read_at, size_bytes)
    finally:
        os.close(descriptor)


def _fetch(open_range: OpenRange, descriptor: int, *, offset: int, count: int) -> int:
    """Write `count` bytes of the hub's file at `offset`. Returns how many there were."""
    with open_range(offset, count) as body:
        written = 0
        if body.offset > offset:  # other bytes than those that were asked for
            return written
        for chunk in _from(body, offset):
            part = chunk[: count - written]
            written += os.pwrite(descriptor, part, offset + written)
            if written == count:  # a hub that ignores ranges would send the whole file
                break
        return written


def _from(body: Body, offset: int) -> Iterator[bytes]:
    """The bytes of `body` from `offset` on. A hub that ignores ranges begins earlier."""
    skip = offset - body.offset
    for chunk in body.chunks:
        yield chunk[skip:] if skip > 0 else chunk
        skip -= len(chunk)
