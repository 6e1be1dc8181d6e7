"""Brings one file of a repository into the cache. Continues where an earlier try ended, and hashes what it reads.
Blocking.

A file under a blob's name is always whole and hashed. Until then it grows under another name. There is no limit of time
here: the caller watches `Transfer` and ends the process.
"""

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

from neuron_lib.errors import PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.os_errors import is_exhausted
from neuron_lib.sources.hub_cache import (
    blob_path,
    discard_blob,
    is_verified,
    lock_path,
    mark_verified,
    partial_path,
    partials_of,
)
from neuron_lib.sources.repository import KnownFile

__all__ = ("Body", "Transfer", "disk_error", "fetch_blob")

logger: logging.Logger = logging.getLogger(__name__)

_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries that brought nothing. After a try that brought something the first pause comes again."""
_LONGEST_PAUSE_S: Final = 30.0
"""Seconds. If a hub asks for a longer pause, the load fails for now and may be tried again."""
_LOCK_LOOK_S: Final = 0.2
_READ_BYTES: Final = 1 << 20
_SIGN_BYTES: Final = 16 << 20
"""A process that hashes what is on disk shows this after so many bytes. No disk takes a minute for them."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Body(Protocol):
    """A file that is being received (see `hub_client.Body`)."""

    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int | None: ...
    @property
    def chunks(self) -> Iterator[bytes]: ...


class Transfer:
    """How far one file has come. Written by the thread that fetches it, read by another thread.

    `bytes` counts what is on disk and hashed. While another process fetches the file, it counts what that process has.
    """

    def __init__(self, file: KnownFile) -> None:
        self.file: Final = file
        self.bytes = 0
        self.trouble: str | None = None
        """Why the last try ended. This is the reason to report if the rate is zero."""
        self.signs: int = 0
        """How often another process, which is waited for, has shown that it hashes. Its lock had so many times."""
        self._last_sign_ns: int | None = None

    def see_sign(self, sign_ns: int) -> None:
        """Take the time of the lock of the process that is waited for. Another time than before is a sign."""
        if sign_ns != self._last_sign_ns:
            self.signs += 1
        self._last_sign_ns = sign_ns


def fetch_blob(
    open_file: Callable[[int], AbstractContextManager[Body]],
    *,
    transfer: Transfer,
    folder: Path,
    model_id: str,
    pause: Callable[[float], None],
    tries: int = 2,
) -> None:
    """Put the blob of `transfer.file` into `folder`, whole and with the hash that is its name. Blocks until that is
    done.

    `open_file(offset)` begins to read the file. Only one process fetches a blob at a time; the others wait for it.
    Wrong content is deleted and fetched again, until it was wrong `tries` times. Raises `SourceUnavailable`, or
    `PreflightFailed` (`CHECKSUM_MISMATCH`, `INSUFFICIENT_STORAGE`, `CACHE_NOT_WRITABLE`, or whatever `open_file`
    raises).
    """
    file = transfer.file
    try:
        with _turn(
            lock_path(folder, file.blob), while_waiting=lambda: _watch_other(folder, transfer), pause=pause
        ) as sign:
            for tries_left in reversed(range(tries)):
                if not blob_path(folder, file.blob).exists():
                    _download(open_file, transfer=transfer, folder=folder, model_id=model_id, pause=pause, sign=sign)
                problem = _find_fault(transfer, folder, sign)
                if problem is None:
                    return
                message = f"{model_id}: {file.shown} is not what its hub says it is: {problem}"
                try:
                    discard_blob(folder, file.blob)
                except OSError:
                    logger.warning("%s; it cannot be deleted", message)
                    raise
                if tries_left == 0:
                    raise PreflightFailed(PreflightKind.CHECKSUM_MISMATCH, message, model_id=model_id, file=file.path)
                logger.warning("%s; deleted, fetching it again", message)
    except OSError as error:
        if error.errno in _FULL:  # free the room for other programs
            with suppress(OSError):
                partial_path(folder, file.blob).unlink(missing_ok=True)
        raise disk_error(error, folder.parent, model_id=model_id) from error


def disk_error(error: OSError, cache_dir: Path, *, model_id: str) -> PreflightFailed | SourceUnavailable:
    """The error that a failure of the cache's disk means for a load."""
    if is_exhausted(error):
        return SourceUnavailable(f"{model_id}: {cache_dir}: {error.strerror or error}", model_id=model_id)
    is_full = error.errno in _FULL
    problem = "the disk is full" if is_full else "cannot write"
    return PreflightFailed(
        PreflightKind.INSUFFICIENT_STORAGE if is_full else PreflightKind.CACHE_NOT_WRITABLE,
        f"{model_id}: {problem} below {cache_dir}: {error.strerror or error}",
        model_id=model_id,
        directory=str(cache_dir),
    )


def _download(
    open_file: Callable[[int], AbstractContextManager[Body]],
    *,
    transfer: Transfer,
    folder: Path,
    model_id: str,
    pause: Callable[[float], None],
    sign: "_Sign",
) -> None:
    """Read the file to its end, in as many tries as bring something and a few that bring nothing."""
    file = transfer.file
    partial = partial_path(folder, file.blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as out:
        digest = _Digest(partial, transfer, sign)
        if digest.bytes > file.size:
            digest.restart(out)
        pauses = iter(_PAUSES_S)
        while digest.bytes < file.size:
            before = digest.bytes
            try:
                with open_file(digest.bytes) as body:
                    _copy(body, out, digest, file, model_id)
            except SourceUnavailable as failure:
                transfer.trouble = failure.message
                if digest.bytes > before:
                    pauses = iter(_PAUSES_S)
                wait_s = next(pauses, None)
                if wait_s is None or (failure.retry_after_s or 0) > _LONGEST_PAUSE_S:
                    raise
                wait_s = max(wait_s, failure.retry_after_s or 0)
                logger.warning("%s; going on from byte %d in %g s", failure.message, digest.bytes, wait_s)
                pause(wait_s)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(blob_path(folder, file.blob))
    if file.sha256 == digest.hexdigest():
        mark_verified(folder, file.sha256)


def _copy(body: Body, out: IO[bytes], digest: "_Digest", file: KnownFile, model_id: str) -> None:
    """Write the received bytes until the file is whole. Raises `SourceUnavailable` if they end before that."""
    path, size = file.shown, file.size
    if body.size and body.size != size:
        message = f"{model_id}: {path} has {body.size} bytes now, but {size} in the listing of its commit"
        raise PreflightFailed(PreflightKind.CHECKSUM_MISMATCH, message, model_id=model_id, file=file.path)
    if body.offset != digest.bytes:
        digest.restart(out)
    for chunk in body.chunks if body.offset == digest.bytes else ():
        out.write(chunk)
        out.flush()  # counted bytes must be in the file even after a kill
        digest.update(chunk)
        if digest.bytes > size:
            return  # the check of the whole file will find it
    if digest.bytes < size:
        raise SourceUnavailable(f"{model_id}: {path} ended after {digest.bytes} of {size} bytes", model_id=model_id)


class _Digest:
    """The hash of a partial file. Bytes of an earlier try are read first.

    Reading many of them takes longer than a hub may be silent, so this reading counts as progress.
    """

    def __init__(self, partial: Path, transfer: Transfer, sign: "_Sign") -> None:
        self._transfer: Final = transfer
        self._hash = hashlib.sha256()
        self.bytes = transfer.bytes = 0
        with partial.open("rb") as done:
            while chunk := done.read(_READ_BYTES):
                self.update(chunk)
                sign.count(len(chunk))

    def update(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.bytes += len(chunk)
        self._transfer.bytes = self.bytes

    def restart(self, out: IO[bytes]) -> None:
        """Forget everything, because the hub does not continue at our offset."""
        out.truncate(0)
        self._hash, self.bytes = hashlib.sha256(), 0
        self._transfer.bytes = 0

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Sign:
    """Shows other processes that the holder of a lock hashes what is on disk, by the lock's time of change.

    Nothing else tells them: the size of no file changes meanwhile. A download gives no sign. Its file grows, and a
    download that is too slow has to look so to everybody.
    """

    def __init__(self, lock: IO[bytes] | None) -> None:
        self._lock: Final = lock
        self._bytes_left = 0

    def count(self, hashed_bytes: int) -> None:
        """Give a sign with the first bytes, and then once for each `_SIGN_BYTES`."""
        self._bytes_left -= hashed_bytes
        if self._lock is not None and self._bytes_left < 0:
            self._bytes_left = _SIGN_BYTES
            with suppress(OSError):  # other processes may give up early then, and this one goes on
                os.utime(self._lock.fileno())


def _find_fault(transfer: Transfer, folder: Path, sign: _Sign) -> str | None:
    """What is wrong with a blob in the cache. None if it is right, or if it was checked after it was last written."""
    file = transfer.file
    path = blob_path(folder, file.blob)
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size} bytes, not {file.size}"
    if file.sha256 is not None and not is_verified(folder, file):
        transfer.bytes = 0
        found = hashlib.sha256()
        with path.open("rb") as content:
            while chunk := content.read(_READ_BYTES):
                found.update(chunk)
                transfer.bytes += len(chunk)
                sign.count(len(chunk))
        if found.hexdigest() != file.sha256:
            return f"its SHA-256 is {found.hexdigest()}, not {file.sha256}"
        mark_verified(folder, file.sha256)
    transfer.bytes = size
    return None


@contextmanager
def _turn(path: Path, *, while_waiting: Callable[[], None], pause: Callable[[float], None]) -> Iterator[_Sign]:
    """Hold a lock file that other tools lock too. Some tools delete the file afterwards, so it is checked again after
    locking.

    In a cache that cannot be written no lock is needed.
    """
    while True:
        with ExitStack() as held:
            lock = None
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(path.open("ab"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                while_waiting()
                pause(_LOCK_LOOK_S)
                continue
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
            else:
                if os.fstat(lock.fileno()).st_nlink == 0:
                    continue
            yield _Sign(lock)
            return


def _watch_other(folder: Path, transfer: Transfer) -> None:
    """Count the bytes of the process that fetches this file now, and notice its signs."""
    transfer.trouble = "another process is fetching the same file"
    transfer.bytes = max([transfer.bytes, *partials_of(folder, transfer.file.blob)])
    with suppress(OSError):  # the lock has just been deleted
        transfer.see_sign(lock_path(folder, transfer.file.blob).stat().st_mtime_ns)
