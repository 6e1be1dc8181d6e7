"""Reads the body of a hub's answer in bounded pieces, whatever its coding and its length are. Blocking."""

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ("AnswerTooLong", "read_bytes", "read_start", "read_whole")

_PIECE_BYTES: Final = 1 << 18
_GZIP: Final = zlib.MAX_WBITS | 16


class AnswerTooLong(ValueError):
    """The body does not end within its limit."""


def read_bytes(response: Any) -> Iterator[bytes]:
    """The content of a streamed `response`, decoded, in pieces.

    Only plain bytes are asked for. If a hub compresses all the same, its answer is decoded piece by piece, because a
    few bytes may expand to gigabytes. Raises `ValueError` for a coding other than gzip and for broken gzip.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding in {"", "identity"}:
        yield from response.iter_raw()
        return
    if coding not in {"gzip", "x-gzip"}:
        raise ValueError(f"the answer has Content-Encoding {coding[:40]!r}, which was not asked for")
    inflater = zlib.decompressobj(_GZIP)
    try:
        for pending in response.iter_raw():
            while pending and not inflater.eof:
                yield inflater.decompress(pending, _PIECE_BYTES)
                pending = inflater.unconsumed_tail  # noqa: PLW2901 - what is left of the same piece
    except zlib.error as error:
        raise ValueError(f"the answer is broken gzip: {error}") from error
    if not inflater.eof:
        raise ValueError("the answer is gzip that ends too early")


def read_whole(
    response: Any, *, limit_bytes: int, limit_s: float, clock: Callable[[], float] = time.monotonic
) -> bytes:
    """The whole content. Raises `AnswerTooLong` beyond `limit_bytes` and `TimeoutError` beyond `limit_s`."""
    ends_s = clock() + limit_s
    content = bytearray()
    for piece in read_bytes(response):
        content += piece
        if len(content) > limit_bytes:
            raise AnswerTooLong(f"it is longer than {limit_bytes} bytes")
        if clock() > ends_s:
            raise TimeoutError(f"the answer has not ended after {limit_s:g} s")
    return bytes(content)


def read_start(response: Any, *, limit_bytes: int, limit_s: float) -> bytes:
    """The first bytes of the content, as many as come in time."""
    content, ends_s = b"", time.monotonic() + limit_s
    for piece in read_bytes(response):
        content += piece
        if len(content) >= limit_bytes or time.monotonic() > ends_s:
            break
    return content[:limit_bytes]
