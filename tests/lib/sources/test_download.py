"""One file on its way into the cache, from hubs that are lists of what they do."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources.download import Body, Transfer, disk_error, fetch_blob
from neuron_lib.sources.hub_cache import blob_path, is_verified, lock_path, mark_verified, partial_path
from neuron_lib.sources.repository import KnownFile
from tests.fakes.model_cache import known_file

CONTENT = bytes(range(200))
FILE = known_file(CONTENT)
MODEL_ID = "huggingface:org/name"
GIT_FILE = KnownFile("m.gguf", len(CONTENT), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0")


@dataclass(slots=True)
class Piece:
    """An answer: the bytes from `offset` to `stop` of `content`, then the end, or `error`."""

    offset: int
    stop: int | None = None
    content: bytes = CONTENT
    size: int | None = len(CONTENT)
    error: Exception | None = None

    @property
    def chunks(self) -> Iterator[bytes]:
        for i in range(self.offset, len(self.content) if self.stop is None else self.stop, 64):
            yield self.content[i : min(i + 64, self.stop or len(self.content))]
        if self.error is not None:
            raise self.error


Answer = Callable[[int], Piece]


def rest(offset: int) -> Piece:
    return Piece(offset)


def nothing(offset: int) -> Piece:
    return Piece(offset, offset)


def unavailable(retry_after_s: int | None = None) -> Answer:
    def answer(offset: int) -> Piece:
        raise SourceUnavailable("the hub is ill", model_id=MODEL_ID, retry_after_s=retry_after_s)

    return answer


@dataclass(slots=True)
class Hub:
    """Answers as told, in this order; `offsets` are those it was asked for, `pauses` what it was left alone for."""

    answers: list[Answer]
    offsets: list[int] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    @contextmanager
    def open(self, offset: int) -> Iterator[Body]:
        self.offsets.append(offset)
        yield self.answers.pop(0)(offset)


def fetch(folder: Path, *answers: Answer, file: KnownFile = FILE, tries: int = 2) -> Hub:
    hub = Hub(list(answers))
    try:
        fetch_blob(
            hub.open, transfer=Transfer(file), folder=folder, model_id=MODEL_ID, pause=hub.pauses.append, tries=tries
        )
    finally:
        assert not hub.answers
        assert_nothing_else_is_here(folder, file)
    return hub


def assert_nothing_else_is_here(folder: Path, file: KnownFile) -> None:
    """A blob that is here is the right one; only a partial one and lock files may be beside it."""
    for path in (folder / "blobs").glob("*"):
        assert path in {blob_path(folder, file.blob), partial_path(folder, file.blob)}
    if file.sha256 is not None and blob_path(folder, file.blob).exists():
        assert hashlib.sha256(blob_path(folder, file.blob).read_bytes()).hexdigest() == file.sha256


def begin(folder: Path, content: bytes) -> Path:
    """Leave the beginning of a blob, as a process does that was killed."""
    partial = partial_path(folder, FILE.blob)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content)
    return partial


def refusal(folder: Path, *answers: Answer, tries: int = 2) -> PreflightFailed:
    with pytest.raises(PreflightFailed) as raised:
        fetch(folder, *answers, tries=tries)
    assert raised.value.message.startswith(MODEL_ID)
    return raised.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models--org--name"


def test_a_file_is_read_in_one_go_and_is_then_hashed_for_good(folder: Path) -> None:
    assert fetch(folder, rest).offsets == [0]
    assert blob_path(folder, FILE.blob).read_bytes() == CONTENT
    assert is_verified(folder, FILE)
    assert not partial_path(folder, FILE.blob).exists()


def test_an_empty_file_is_asked_of_nobody(folder: Path) -> None:
    file = known_file(b"")
    assert not fetch(folder, file=file).offsets
    assert blob_path(folder, file.blob).read_bytes() == b""


def test_what_an_earlier_process_has_left_is_gone_on_with(folder: Path) -> None:
    begin(folder, CONTENT[:77])
    assert fetch(folder, rest).offsets == [77]


def test_what_an_earlier_process_has_left_is_told_as_progress(folder: Path) -> None:
    begin(folder, CONTENT[:77])
    transfer, seen = Transfer(FILE), []

    @contextmanager
    def open_file(offset: int) -> Iterator[Body]:
        seen.append(transfer.bytes)
        yield rest(offset)

    fetch_blob(open_file, transfer=transfer, folder=folder, model_id=MODEL_ID, pause=lambda _: None)
    assert (seen, transfer.bytes) == ([77], len(CONTENT))


def test_what_an_earlier_process_has_left_whole_is_not_fetched_again(folder: Path) -> None:
    begin(folder, CONTENT)
    assert not fetch(folder).offsets
    assert is_verified(folder, FILE)


@pytest.mark.parametrize("left", [CONTENT + b"?", b"?" * len(CONTENT)])
def test_what_an_earlier_process_has_left_wrong_is_fetched_from_the_start(folder: Path, left: bytes) -> None:
    begin(folder, left)
    assert fetch(folder, rest).offsets == [0]


def test_what_an_earlier_process_has_left_too_long_is_not_held_against_the_hub(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(folder, CONTENT + b"?")
    assert fetch(folder, rest, tries=1).offsets == [0]
    assert not caplog.records


def test_a_body_that_ends_early_is_gone_on_with_after_a_moment(folder: Path) -> None:
    hub = fetch(folder, lambda _: Piece(0, 50), lambda _: Piece(50, 120), rest)
    assert (hub.offsets, hub.pauses) == ([0, 50, 120], [1.0, 1.0])


def test_a_hub_that_brings_nothing_is_asked_five_times_less_and_less_often(folder: Path) -> None:
    hub = Hub([nothing] * 5)
    with pytest.raises(SourceUnavailable, match="ended after 0 of 200 bytes"):
        fetch_blob(hub.open, transfer=Transfer(FILE), folder=folder, model_id=MODEL_ID, pause=hub.pauses.append)
    assert (hub.offsets, hub.pauses) == ([0] * 5, [1.0, 2.0, 4.0, 8.0])


def test_a_try_that_brings_something_begins_the_pauses_anew(folder: Path) -> None:
    hub = fetch(folder, nothing, nothing, lambda _: Piece(0, 9), nothing, rest)
    assert hub.pauses == [1.0, 2.0, 1.0, 2.0]


def test_a_short_wish_of_the_hub_is_granted(folder: Path) -> None:
    assert fetch(folder, unavailable(7), rest).pauses == [7]


def test_a_long_wish_of_the_hub_is_granted_between_loads(folder: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        fetch(folder, unavailable(86_400))
    assert raised.value.retry_after_s == 86_400


def test_a_failure_keeps_what_is_here(folder: Path) -> None:
    with pytest.raises(SourceUnavailable):
        fetch(folder, lambda _: Piece(0, 50), unavailable(3600))
    assert partial_path(folder, FILE.blob).read_bytes() == CONTENT[:50]
    assert fetch(folder, rest).offsets == [50]


def test_a_hub_that_knows_no_ranges_is_read_from_the_start(folder: Path) -> None:
    begin(folder, CONTENT[:50])
    hub = fetch(folder, lambda _: Piece(0))
    assert hub.offsets == [50]


def test_a_hub_that_begins_elsewhere_is_asked_for_everything(folder: Path) -> None:
    begin(folder, CONTENT[:50])
    hub = fetch(folder, lambda _: Piece(51), rest)
    assert hub.offsets == [50, 0]


def test_wrong_bytes_are_deleted_and_fetched_once_more(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = fetch(folder, lambda _: Piece(0, content=CONTENT[::-1]), rest)
    assert hub.offsets == [0, 0]
    assert "m.gguf is not what its hub says it is: its SHA-256 is" in caplog.text


def test_bytes_that_are_wrong_again_are_refused_and_leave_nothing(folder: Path) -> None:
    error = refusal(folder, *[lambda _: Piece(0, content=CONTENT[::-1])] * 2)
    assert error.kind is PreflightKind.CHECKSUM_MISMATCH
    assert error.fields["file"] == "m.gguf"
    assert not list((folder / "blobs").iterdir())


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused_unread_and_costs_nothing_that_is_here(folder: Path, size: int) -> None:
    partial = begin(folder, CONTENT[:50])
    error = refusal(folder, lambda _: Piece(0, size=size))
    assert error.kind is PreflightKind.CHECKSUM_MISMATCH
    assert f"has {size} bytes now, but 200 in the listing" in error.message
    assert partial.read_bytes() == CONTENT[:50]


def test_a_body_that_does_not_end_where_it_should_is_not_read_on(folder: Path) -> None:
    endless = Piece(0, content=CONTENT + bytes(1 << 20), size=None, error=AssertionError("read to the end"))
    assert refusal(folder, *[lambda _: endless] * 2).kind is PreflightKind.CHECKSUM_MISMATCH


def test_a_file_outside_large_file_storage_is_measured_only(folder: Path) -> None:
    assert fetch(folder, lambda _: Piece(0, content=CONTENT[::-1]), file=GIT_FILE).offsets == [0]
    assert not fetch(folder, file=GIT_FILE).offsets


# ---------------------------------------------------------------------------------------------------- already here


def put_blob(folder: Path, content: bytes) -> Path:
    blob = blob_path(folder, FILE.blob)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    return blob


def test_a_blob_of_another_tool_is_hashed_once(folder: Path) -> None:
    blob = put_blob(folder, CONTENT)
    assert not is_verified(folder, FILE)
    assert not fetch(folder).offsets
    assert is_verified(folder, FILE)
    written_ns = blob.stat().st_mtime_ns
    blob.write_bytes(CONTENT[::-1])
    os.utime(blob, ns=(written_ns, written_ns))
    fetch_blob(Hub([]).open, transfer=Transfer(FILE), folder=folder, model_id=MODEL_ID, pause=lambda _: None)


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[:-1], b""])
def test_a_blob_that_is_wrong_is_fetched_again(folder: Path, content: bytes) -> None:
    put_blob(folder, content)
    assert fetch(folder, rest).offsets == [0]


def test_a_blob_that_is_wrong_is_only_deleted_by_who_has_one_try(folder: Path) -> None:
    blob = put_blob(folder, CONTENT[::-1])
    assert refusal(folder, tries=1).kind is PreflightKind.CHECKSUM_MISMATCH
    assert not blob.exists()


def test_a_blob_that_changed_after_it_was_hashed_is_hashed_again(folder: Path) -> None:
    put_blob(folder, CONTENT + b"?")
    mark_verified(folder, FILE.blob)
    blob_path(folder, FILE.blob).write_bytes(CONTENT[::-1])
    assert fetch(folder, rest).offsets == [0]


# ----------------------------------------------------------------------------------------------------- two at once


def test_a_file_that_another_process_fetches_is_waited_for_and_watched(folder: Path) -> None:
    lock = lock_path(folder, FILE.blob)
    lock.parent.mkdir(parents=True)
    partial, transfer, seen = begin(folder, CONTENT[:50]), Transfer(FILE), []
    with lock.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def go_on(_: float) -> None:
            seen.append((transfer.bytes, transfer.trouble))
            if len(seen) == 2:
                partial.replace(blob_path(folder, FILE.blob))
                lock.unlink()  # as some tools do
                other.close()
            else:
                partial.write_bytes(CONTENT)

        fetch_blob(Hub([]).open, transfer=transfer, folder=folder, model_id=MODEL_ID, pause=go_on)
    trouble = "another process is fetching the same file"
    assert seen == [(50, trouble), (200, trouble)]
    assert is_verified(folder, FILE)


def sign_of(lock: Path) -> int:
    return lock.stat().st_mtime_ns


def old_lock(folder: Path) -> Path:
    """A lock file whose last sign was long ago."""
    lock = lock_path(folder, FILE.blob)
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, ns=(1, 1))
    return lock


def test_a_process_that_hashes_a_blob_shows_it_by_the_time_of_its_lock(folder: Path) -> None:
    lock = old_lock(folder)
    put_blob(folder, CONTENT)
    fetch(folder)
    assert sign_of(lock) > 1


def test_a_process_that_hashes_what_an_earlier_one_has_left_shows_it_before_it_asks_the_hub(folder: Path) -> None:
    lock, signs = old_lock(folder), list[int]()
    begin(folder, CONTENT[:77])

    def look(offset: int) -> Piece:
        signs.append(sign_of(lock))
        return rest(offset)

    fetch(folder, look)
    assert signs > [1]


def test_a_download_gives_no_sign_because_its_file_grows(folder: Path) -> None:
    lock = old_lock(folder)
    fetch(folder, rest)
    assert sign_of(lock) == 1


@pytest.mark.parametrize(("piece", "signs"), [(64, 3), (128, 2), (1000, 1)])
def test_a_long_file_is_shown_again_and_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, piece: int, signs: int
) -> None:
    given_signs: list[object] = []
    monkeypatch.setattr("neuron_lib.sources.download._READ_BYTES", piece)
    monkeypatch.setattr("neuron_lib.sources.download._SIGN_BYTES", 63)
    monkeypatch.setattr("neuron_lib.sources.download.os.utime", given_signs.append)
    put_blob(folder, CONTENT)
    fetch(folder)
    assert len(given_signs) == signs


def test_a_sign_that_cannot_be_given_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr("neuron_lib.sources.download.os.utime", refuse)
    put_blob(folder, CONTENT)
    fetch(folder)
    assert is_verified(folder, FILE)


def test_the_signs_of_the_process_that_is_waited_for_are_noticed(folder: Path) -> None:
    lock, transfer, seen = old_lock(folder), Transfer(FILE), list[int]()
    put_blob(folder, CONTENT)
    with lock.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        os.utime(lock, ns=(1, 1))

        def go_on(_: float) -> None:
            seen.append(transfer.signs)
            if len(seen) == 1:
                os.utime(lock, ns=(0, 0))  # a clock that was put back
            if len(seen) == 3:
                other.close()

        fetch_blob(Hub([]).open, transfer=transfer, folder=folder, model_id=MODEL_ID, pause=go_on)
    assert seen == [1, 2, 2]


def test_a_lock_that_was_deleted_before_it_was_taken_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, taken = lock_path(folder, FILE.blob), []

    def take(file: Any, how: int) -> None:
        taken.append(how)
        if len(taken) == 1:
            lock.unlink()  # by a tool that was done with it a moment after we opened it
        fcntl_flock(file, how)

    fcntl_flock = fcntl.flock
    monkeypatch.setattr("neuron_lib.sources.download.fcntl.flock", take)
    fetch(folder, lambda offset: Piece(offset) if lock.exists() else nothing(offset))
    assert len(taken) == 2


def test_a_lock_is_held_while_a_file_is_fetched(folder: Path) -> None:
    def look(offset: int) -> Piece:
        with lock_path(folder, FILE.blob).open("rb") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return rest(offset)

    fetch(folder, look)
    with lock_path(folder, FILE.blob).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ------------------------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_becomes_full_is_left_as_it_was(folder: Path, number: int) -> None:
    error = refusal(folder, lambda _: Piece(0, 50, error=OSError(number, "no room")))
    assert error.kind is PreflightKind.INSUFFICIENT_STORAGE
    assert not list((folder / "blobs").iterdir())


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, PreflightKind.INSUFFICIENT_STORAGE),
        (errno.EDQUOT, PreflightKind.INSUFFICIENT_STORAGE),
        (errno.EROFS, PreflightKind.CACHE_NOT_WRITABLE),
        (errno.EACCES, PreflightKind.CACHE_NOT_WRITABLE),
        (errno.EIO, PreflightKind.CACHE_NOT_WRITABLE),
    ],
)
def test_what_a_disk_says_is_told_with_the_place(number: int, kind: PreflightKind) -> None:
    error = disk_error(OSError(number, "what the disk says"), Path("/cache"), model_id=MODEL_ID)
    assert isinstance(error, PreflightFailed)
    assert error.kind is kind
    assert error.fields == {"model_id": MODEL_ID, "directory": "/cache"}
    assert "/cache: what the disk says" in error.message


def test_a_file_in_the_way_is_told(folder: Path) -> None:
    folder.write_text("a file where a directory should be")
    assert refusal(folder).kind is PreflightKind.CACHE_NOT_WRITABLE


# ------------------------------------------------------------------------------------------------------- all of it


@given(
    content=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    left=st.integers(0, 300),
    ignores_ranges=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_wherever_a_body_is_cut_the_file_is_whole_in_the_end(
    content: bytes, cuts: list[int], left: int, ignores_ranges: list[bool]
) -> None:
    file = known_file(content)
    stops = [*cuts, len(content), len(content)]
    with TemporaryDirectory() as directory:
        folder = Path(directory, "models--org--name")
        partial = partial_path(folder, file.blob)
        partial.parent.mkdir(parents=True)
        partial.write_bytes(content[:left])
        asked: list[int] = []

        @contextmanager
        def open_file(offset: int) -> Iterator[Body]:
            start = 0 if ignores_ranges[len(asked)] else offset
            stop = min(len(content), max(start, stops[len(asked)]))
            asked.append(offset)
            yield Piece(start, stop, content=content, size=len(content))

        fetch_blob(open_file, transfer=Transfer(file), folder=folder, model_id=MODEL_ID, pause=lambda _: None)
        assert blob_path(folder, file.blob).read_bytes() == content
        assert all(offset < len(content) for offset in asked)
        assert is_verified(folder, file)
