"""Only the header of a file is fetched, in a few ranges, and the outline reads like the whole file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.fetch_protocol import Alive, Frame
from neuron_lib.sources.fetch_worker import fetch
from neuron_lib.sources.gguf_header import MalformedGguf, read_gguf_header
from neuron_lib.sources.outline import fetch_outline
from tests.fakehub import fake_hub
from tests.fakes.gguf_bytes import array, entry, gguf, tensor, text
from tests.fakes.model_cache import REPOSITORY, order_for, repository_in

MIB = 1 << 20


@dataclass(frozen=True)
class Answer:
    """See `neuron_lib.sources.download.Body`."""

    offset: int
    size: int | None
    chunks: Iterator[bytes]


class Ranges:
    """A hub's file. `keeps_ranges` False: it sends the whole file whatever it is asked for."""

    def __init__(self, content: bytes, *, keeps_ranges: bool = True) -> None:
        self.content = content
        self.keeps_ranges = keeps_ranges
        self.asked: list[tuple[int, int]] = []
        self.taken = 0

    @contextmanager
    def open(self, offset: int, count: int) -> Iterator[Answer]:
        self.asked.append((offset, count))
        begin = offset if self.keeps_ranges else 0
        yield Answer(begin, len(self.content), self._chunks(begin, offset + count if self.keeps_ranges else None))

    def _chunks(self, begin: int, end: int | None) -> Iterator[bytes]:
        for at in range(begin, len(self.content) if end is None else min(end, len(self.content)), 1000):
            chunk = self.content[at : at + 1000]
            self.taken += len(chunk)
            yield chunk


def model_file(*, header_mb: int) -> bytes:
    """A model with a vocabulary of about so many MiB, and 16 MiB of weights."""
    words = array(8, header_mb * 4096, text("w" * 248) * (header_mb * 4096))
    return gguf(
        [entry("general.architecture", "llama"), entry("tokenizer.ggml.tokens", words)],
        [tensor("weights", (4 * MIB,))],
        data_bytes=16 * MIB,
    )


@pytest.mark.parametrize("keeps_ranges", [True, False])
def test_an_outline_reads_like_the_whole_file_and_has_a_hole_instead_of_the_weights(
    tmp_path: Path, *, keeps_ranges: bool
) -> None:
    content = model_file(header_mb=5)
    hub = Ranges(content, keeps_ranges=keeps_ranges)
    notes: list[None] = []
    header = fetch_outline(
        hub.open, tmp_path / "m.gguf", size_bytes=len(content), note_progress=lambda: notes.append(None)
    )
    (tmp_path / "whole.gguf").write_bytes(content)
    assert header == read_gguf_header(tmp_path / "m.gguf") == read_gguf_header(tmp_path / "whole.gguf")
    assert (tmp_path / "m.gguf").stat().st_size == len(content)
    assert (tmp_path / "m.gguf").stat().st_blocks * 512 < 10 * MIB
    assert [offset for offset, _ in hub.asked] == [0, MIB, 2 * MIB, 4 * MIB]
    assert len(notes) == 4
    # A hub that ignores ranges begins at the first byte each time, and is left as soon as the part is here.
    assert hub.taken <= (8 if keeps_ranges else 15) * MIB + 4 * 1000


def test_a_file_that_is_shorter_than_the_hub_says_is_malformed(tmp_path: Path) -> None:
    content = model_file(header_mb=1)
    with pytest.raises(MalformedGguf, match="became shorter"):
        fetch_outline(
            Ranges(content[:MIB]).open, tmp_path / "m.gguf", size_bytes=len(content), note_progress=lambda: None
        )


def test_bytes_of_another_place_than_was_asked_for_are_not_taken(tmp_path: Path) -> None:
    content = model_file(header_mb=1)

    @contextmanager
    def one_byte_later(offset: int, count: int) -> Iterator[Answer]:
        yield Answer(offset + 1, len(content), iter([content[offset + 1 : offset + 1 + count]]))

    with pytest.raises(MalformedGguf, match="became shorter"):
        fetch_outline(one_byte_later, tmp_path / "m.gguf", size_bytes=len(content), note_progress=lambda: None)
    assert (tmp_path / "m.gguf").read_bytes() == bytes(len(content))


def test_a_worker_fetches_the_headers_of_all_parts_and_leaves_the_cache_alone(tmp_path: Path, process: None) -> None:
    part = model_file(header_mb=1)
    parts = {f"deep/m-Q8_0-{number:05}-of-00002.gguf": part for number in (1, 2)}
    frames: list[Frame] = []
    with fake_hub({REPOSITORY: {**parts, "m-Q2_K.gguf": b"another"}}) as hub:
        order = order_for(
            repository_in(tmp_path / "cache", endpoint=hub.url), quant="Q8_0", outline_dir=tmp_path / "outlines"
        )
        (tmp_path / "outlines").mkdir()
        fetched = fetch(order, frames.append)
        sent = sum(exchange.sent_bytes for exchange in hub.log)
    assert [path.name for path in fetched.paths] == ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    assert {path.parent for path in fetched.paths} == {tmp_path / "outlines"}
    assert sent < 2 * 3 * MIB
    assert set(frames) == {Alive()}
    assert not (tmp_path / "cache").exists()


def test_a_model_that_exceeds_all_memory_is_refused_before_it_is_fetched(tmp_path: Path, process: None) -> None:
    with fake_hub({REPOSITORY: {"m-Q8_0.gguf": bytes(2 * MIB + 1)}}) as hub:
        order = order_for(repository_in(tmp_path, endpoint=hub.url), most_bytes=2 * MIB)
        with pytest.raises(PreflightFailed, match=r"have 2.1 MB.*so it is not fetched") as refused:
            fetch(order, lambda _: None)
        assert not [request for request in hub.requests if "resolve" in request]
    assert refused.value.kind is PreflightKind.INSUFFICIENT_MEMORY
    assert (refused.value.fields["needed_mb"], refused.value.fields["free_mb"]) == (3, 2)


def test_a_file_on_a_hub_that_is_no_gguf_is_refused_by_name(tmp_path: Path, process: None) -> None:
    with fake_hub({REPOSITORY: {"m-Q8_0.gguf": b"no GGUF" * 100}}) as hub:
        order = order_for(repository_in(tmp_path / "cache", endpoint=hub.url), outline_dir=tmp_path)
        with pytest.raises(PreflightFailed, match=r"m-Q8_0.gguf is no usable GGUF") as refused:
            fetch(order, lambda _: None)
    assert refused.value.kind is PreflightKind.INVALID_GGUF
