from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.upstream.sse import EventTooLong, SseReader

STREAM = (
    b'\xef\xbb\xbf: hello\r\nevent: x\r\ndata: {"a":1}\r\n\r\ndata:{"b"\ndata: :2}\n\n'
    b"id: 7\r\rdatum: 1\rdata: [DONE]\r\r"
)
EVENTS = [b'{"a":1}', b'{"b"\n:2}', b"[DONE]"]


def read(pieces: list[bytes]) -> list[bytes]:
    reader = SseReader()
    return [data for piece in pieces for data in reader.feed(piece)] + list(reader.end())


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_a_stream_has_the_same_events_however_it_is_cut(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read([STREAM[a:b] for a, b in pairwise(edges)]) == EVENTS


def test_an_event_is_given_with_its_last_line_and_not_later() -> None:
    reader = SseReader()
    assert list(reader.feed(b"data: 1\n")) == []
    assert list(reader.feed(b"\n")) == [b"1"]


def test_an_event_without_an_empty_line_counts_at_the_end() -> None:
    assert read([b"data: 1\n\ndata: 2"]) == [b"1", b"2"]


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_are_read_without_an_error(pieces: list[bytes]) -> None:
    read(pieces)


@pytest.mark.parametrize("piece", [b"data: xxxxxxxx", b"data: x\n", b"x"])
def test_an_event_that_never_ends_is_too_long(piece: bytes) -> None:
    reader = SseReader(most_bytes=1000)
    with pytest.raises(EventTooLong):
        _ = [list(reader.feed(piece)) for _ in range(2000)]
