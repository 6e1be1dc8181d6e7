"""The fetch process: `python -m neuron_lib.sources.fetch_worker`. Reads one order from stdin, reports on stdout, ends.

Fetching needs a process of its own, because a thread that waits for a hub cannot be ended. The process may be killed at
any moment. The next one continues with the bytes that were written.
"""

import argparse
import errno
import logging
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from neuron_lib.child.parent_death import (
    add_parent_option,
    end_with_parent,
    end_without_parent,
    leave_signals_to_parent,
)
from neuron_lib.config import DownloadConfig
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sizes import format_size
from neuron_lib.sources.download import Body, Transfer, disk_error, fetch_blob
from neuron_lib.sources.fetch_protocol import (
    Advance,
    Alive,
    Failed,
    Fetched,
    FetchOrder,
    Frame,
    decode_order,
    encode_line,
)
from neuron_lib.sources.foreign_text import Redaction, one_line
from neuron_lib.sources.formats import GGUF, SAFETENSORS, select_files
from neuron_lib.sources.gguf_header import MalformedGguf
from neuron_lib.sources.hub_cache import (
    blob_path,
    link_snapshot,
    partials_of,
    remember_commit,
    repository_folder,
    sweep_partials,
)
from neuron_lib.sources.outline import OpenRange, fetch_outline
from neuron_lib.sources.repository import HubRepository, KnownFile, Listing, RepoFile, known
from neuron_lib.types import LoadStage

if TYPE_CHECKING:
    from neuron_lib.sources.hub_client import HubClient

__all__ = ("RateWatch", "fetch", "main")

logger: logging.Logger = logging.getLogger(__name__)

_REPORT_INTERVAL_S: Final = 0.2
_LISTING_PAUSES_S: Final = (0.5, 1.5)
_LONGEST_LISTING_PAUSE_S: Final = 10.0
_DISK_MARGIN: Final = 1.05
"""A disk must have a little more room than the files need."""


class RateWatch:
    """Notices when a transfer was slower than `min_bytes_per_s` for `window_s` seconds."""

    def __init__(self, *, min_bytes_per_s: float, window_s: float) -> None:
        self._min_bytes_per_s: Final = min_bytes_per_s
        self._window_s: Final = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._signs = 0

    def is_slow(self, now_s: float, done_bytes: int, *, signs: int = 0) -> bool:
        """Take the state at `now_s`. Returns whether the transfer was slow for the whole window before.

        If there are fewer bytes than before, a file is read again. Then the window begins anew. The window also begins
        anew with each further one of the `signs`: a process that is waited for hashes a file, and adds no bytes.
        """
        if signs > self._signs or (self._samples and done_bytes < self._samples[-1][1]):
            self._samples.clear()
        self._signs = signs
        self._samples.append((now_s, done_bytes))
        while len(self._samples) > 1 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()
        began_s, began_bytes = self._samples[0]
        elapsed_s = now_s - began_s
        return elapsed_s >= self._window_s and done_bytes - began_bytes < self._min_bytes_per_s * elapsed_s


def main() -> None:
    """Carry out one order. The exit status is 0, also for a failure that was reported."""
    leave_signals_to_parent()
    daemon = os.getppid()
    parser = argparse.ArgumentParser(prog="python -m neuron_lib.sources.fetch_worker", description="one order, one end")
    add_parent_option(parser)
    end_with_parent(parser.parse_args().parent)
    threading.Thread(target=end_without_parent, args=(daemon, sys.stdin.fileno()), daemon=True).start()
    # Libraries may print to stdout. Their text goes to stderr, so that it does not get between the frames.
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)

    def emit(frame: Frame) -> None:
        frames.write(encode_line(frame))

    order = decode_order(sys.stdin.buffer.readline())
    shown = Redaction(order.repository.token)
    model_id = order.repository.model_id
    try:
        last: Frame = fetch(order, emit)
    except NeuronError as error:
        last = Failed(to_frame(error))
    except Exception as error:
        logger.exception("bug while fetching")
        bug = one_line(shown(f"{type(error).__name__}: {error}"))
        last = Failed(to_frame(LoadFailed(f"a bug while fetching {model_id}: {bug}", model_id=model_id)))
    emit(last)
    os._exit(0)  # threads may wait for a hub; this does not wait for them


def fetch(order: FetchOrder, emit: Callable[[Frame], None], *, pause: Callable[[float], None] = time.sleep) -> Fetched:
    """Carry out `order`. Raises `SourceUnavailable` or `PreflightFailed`. Threads may still run afterwards.

    `pause` waits for so many seconds before a hub is asked again or a lock is tried again.
    """
    repository = order.repository
    hub = _Hub(repository, emit, pause)
    if order.outline_dir is not None:
        return _outline(hub, order, order.outline_dir, emit)
    for swept in sweep_partials(repository.cache_dir, now_s=time.time()):
        logger.info("deleted an unfinished download: %s, %d bytes", swept.path.name, swept.size)
    format_, listing = (GGUF, order.listing) if order.listing is not None else _choose(hub, order)
    files = tuple(hub.know(listing.commit, file) for file in listing.files)
    folder = repository_folder(repository)
    _require_memory(files, most_bytes=order.most_bytes, model_id=repository.model_id)
    try:
        _require_room(folder, files, model_id=repository.model_id)
        _fetch_all(
            hub,
            listing.commit,
            files,
            folder=folder,
            tries=2 if order.listing is None else 1,
            limits=order.limits,
            model_id=repository.model_id,
            emit=emit,
            pause=pause,
        )
        paths = tuple(link_snapshot(folder, listing.commit, file) for file in files)
        if order.listing is None:
            remember_commit(repository, listing.commit)
    except OSError as error:
        raise disk_error(error, repository.cache_dir, model_id=repository.model_id) from error
    return Fetched(commit=listing.commit, paths=paths, format=format_)


def _outline(hub: "_Hub", order: FetchOrder, folder: Path, emit: Callable[[Frame], None]) -> Fetched:
    """Fetch the headers of the files that a load would fetch. Returns the paths of their outlines."""
    model_id = order.repository.model_id
    format_, listing = _choose(hub, order)
    paths = []
    files = tuple(hub.know(listing.commit, file) for file in listing.files)
    cache = repository_folder(order.repository)
    if order.precedes_fetch:
        _require_memory(files, most_bytes=order.most_bytes, model_id=model_id)
        _require_room(cache, files, model_id=model_id)
    try:
        if order.precedes_fetch and not os.access(_nearest(cache), os.W_OK):
            raise PermissionError(errno.EACCES, "the cache cannot be written", str(_nearest(cache)))
        for file in files:
            if format_ == SAFETENSORS:
                paths.append(_hole(folder / file.path, size_bytes=file.size))
                continue
            paths.append(path := folder / PurePosixPath(file.path).name)
            open_range = hub.range_opener(listing.commit, file)
            fetch_outline(open_range, path, size_bytes=file.size, note_progress=lambda: emit(Alive()))
    except MalformedGguf as error:
        message = f"{model_id}: {paths[-1].name} is no usable GGUF: {error}"
        raise PreflightFailed(PreflightKind.INVALID_GGUF, message, model_id=model_id) from error
    except OSError as error:
        raise disk_error(error, folder, model_id=model_id) from error
    return Fetched(commit=listing.commit, paths=tuple(paths), format=format_)


def _hole(path: Path, *, size_bytes: int) -> Path:
    """Make a file of this size that takes no room on a disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.truncate(size_bytes)
    return path


def _choose(hub: "_Hub", order: FetchOrder) -> tuple[str, Listing]:
    """The format of the model, and its files."""
    listing = hub.list_files()
    chosen = select_files(
        listing.files,
        formats=order.formats,
        quant=order.quant,
        model_id=order.repository.model_id,
        room_bytes=order.room_bytes,
    )
    return chosen.format, Listing(listing.commit, chosen.files)


def _require_memory(files: Sequence[KnownFile], *, most_bytes: int | None, model_id: str) -> None:
    """Refuse an order for a model whose weights alone are more than the memory that this host can give it."""
    needed_bytes = sum(file.size for file in files)
    if most_bytes is not None and needed_bytes > most_bytes:
        raise PreflightFailed.of_memory(
            f"{model_id}: its files have {format_size(needed_bytes)}, and the memory that it could have is "
            f"{format_size(most_bytes)}, so it is not fetched",
            model_id=model_id,
            needed_bytes=needed_bytes,
            free_bytes=most_bytes,
        )


def _nearest(folder: Path) -> Path:
    """The directory itself, or the first one above it that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _require_room(folder: Path, files: Sequence[KnownFile], *, model_id: str) -> None:
    """Refuse an order for which the disk has no room, before the first byte is fetched."""
    missing = [file for file in files if not blob_path(folder, file.blob).exists()]
    required = sum(max(0, file.size - max([0, *partials_of(folder, file.blob)])) for file in missing)
    place = _nearest(folder)
    free = shutil.disk_usage(place).free
    if required * _DISK_MARGIN > free:
        raise PreflightFailed(
            PreflightKind.INSUFFICIENT_STORAGE,
            f"{model_id}: {format_size(required)} are still to be fetched and {place} has {format_size(free)} free",
            model_id=model_id,
            directory=str(place),
            required_bytes=required,
            free_bytes=free,
        )


def _fetch_all(
    hub: "_Hub",
    commit: str,
    files: Sequence[KnownFile],
    *,
    folder: Path,
    tries: int,
    limits: DownloadConfig,
    model_id: str,
    emit: Callable[[Frame], None],
    pause: Callable[[float], None],
) -> None:
    """Fetch and check several files at a time, and report the progress. Gives up when the transfer is too slow."""
    are_here = all(blob_path(folder, file.blob).exists() for file in files)
    stage = LoadStage.VERIFYING if are_here else LoadStage.DOWNLOADING
    transfers = [Transfer(file) for file in files]
    if not are_here:
        total = format_size(sum(file.size for file in files))
        logger.info("fetching %s at commit %s, files: %d, %s", model_id, commit, len(files), total)
    watch = RateWatch(min_bytes_per_s=limits.min_kb_per_s * 1024, window_s=limits.min_rate_window_secs)
    pool = ThreadPoolExecutor(limits.parallel)
    waiting = {
        pool.submit(
            fetch_blob,
            hub.opener(commit, file),
            transfer=transfer,
            folder=folder,
            model_id=model_id,
            pause=pause,
            tries=tries,
        )
        for file, transfer in zip(files, transfers, strict=True)
    }
    emit(_advance(stage, transfers))
    while waiting:
        done, waiting = wait(waiting, timeout=_REPORT_INTERVAL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        now = _advance(stage, transfers)
        emit(now)
        signs = sum(transfer.signs for transfer in transfers)
        is_slow = watch.is_slow(time.monotonic(), now.bytes, signs=signs)
        # When all bytes are here, a slow transfer means that the disk is slow.
        if waiting and is_slow and now.bytes < now.total_bytes:
            raise _too_slow(now, transfers, limits=limits, model_id=model_id)
    pool.shutdown()


def _advance(stage: LoadStage, transfers: Sequence[Transfer]) -> Advance:
    unfinished = [transfer.file for transfer in transfers if transfer.bytes < transfer.file.size]
    return Advance(
        stage=stage,
        file=(unfinished[0] if unfinished else transfers[-1].file).path,
        bytes=sum(transfer.bytes for transfer in transfers),
        total_bytes=sum(transfer.file.size for transfer in transfers),
    )


def _too_slow(
    now: Advance, transfers: Sequence[Transfer], *, limits: DownloadConfig, model_id: str
) -> SourceUnavailable:
    troubles = [t.trouble for t in transfers if t.trouble is not None and t.bytes < t.file.size]
    return SourceUnavailable(
        f"{model_id}: less than {limits.min_kb_per_s:g} KiB/s for {limits.min_rate_window_secs:g} s, "
        f"{now.bytes} of {now.total_bytes} bytes are here: {troubles[0] if troubles else 'the hub sends too little'}",
        model_id=model_id,
    )


class _Hub:
    """The hub of a repository. Its client is imported at the first question, because cached files need no hub.

    A frame is sent after each question. Otherwise many questions to a slow hub would look like a process that hangs.
    """

    def __init__(
        self, repository: HubRepository, emit: Callable[[Frame], None], pause: Callable[[float], None]
    ) -> None:
        self._repository: Final = repository
        self._emit: Final = emit
        self._pause: Final = pause

    @cached_property
    def _client(self) -> "HubClient":
        from neuron_lib.sources.hub_client import HubClient  # noqa: PLC0415 - slow to import, often not needed

        return HubClient(self._repository)

    def list_files(self) -> Listing:
        """Ask for the listing. If the hub does not answer, ask again after a pause."""
        for pause_s in _LISTING_PAUSES_S:
            try:
                return self._client.list_files()
            except SourceUnavailable as failure:
                wait_s = max(pause_s, failure.retry_after_s or 0)
                if wait_s > _LONGEST_LISTING_PAUSE_S:
                    raise
                logger.warning("%s; asking again in %g s", failure.message, wait_s)
                self._emit(Alive())
                self._pause(wait_s)
        return self._client.list_files()

    def know(self, commit: str, file: RepoFile) -> KnownFile:
        """The file with everything that a fetch needs. The hub is asked for facts that the listing left out."""
        complete = known(file)
        if complete is None:
            complete = known(self._client.complete(commit, file))
            self._emit(Alive())
        if complete is None:
            model_id = self._repository.model_id
            raise PreflightFailed(
                PreflightKind.REPO_FETCH_FAILED,
                f"{model_id}: the hub has no usable name for the content of {file.shown}",
                model_id=model_id,
                cause="unusable ETag",
            )
        return complete

    def range_opener(self, commit: str, file: KnownFile) -> OpenRange:
        """A function that begins to read a part of the file."""
        return lambda offset, count: self._client.open_file(commit, file.path, offset=offset, count=count)

    def opener(self, commit: str, file: KnownFile) -> Callable[[int], AbstractContextManager[Body]]:
        """A function that begins to read the file at an offset."""
        return lambda offset: self._client.open_file(commit, file.path, offset=offset)


if __name__ == "__main__":
    main()
