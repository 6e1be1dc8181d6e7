"""A fetch process seen from the daemon: one order, its progress, its end. Decides nothing about what is fetched."""

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.buffered import BufferedByteReceiveStream

from neuron_lib.errors import SourceUnavailable
from neuron_lib.exhaustion import is_exhausted
from neuron_lib.harness import ProgressReporter
from neuron_lib.logs import get_logger
from neuron_lib.sources.fetch_protocol import (
    Advance,
    Alive,
    Failed,
    Fetched,
    FetchOrder,
    Frame,
    decode_frame,
    encode_line,
    to_error,
)
from neuron_lib.sources.foreign_text import Redaction
from neuron_lib.sources.repository import HubRepository
from neuron_lib.types import LoadProgress, public_id

__all__ = ("RateMeter", "fetch_environment", "run_fetch")

logger = get_logger(__name__)
worker_logger = get_logger("neuron_lib.sources.fetch_worker")

_COMMAND: Final = (sys.executable, "-P", "-m", "neuron_lib.sources.fetch_worker")
_ROOT: Final = Path(__file__).parents[2]
"""The directory this package was found in, which need not be on the path of a new interpreter."""
_KILL_LIMIT_S: Final = 5.0
_LAST_WORDS_LIMIT_S: Final = 2.0
_SILENCE_LIMIT_S: Final = 120.0
"""Beyond `min_rate_window_secs`: it says something five times a second, and after each question to a hub, which takes
that long where every address of the hub is dead."""
_LOOK_S: Final = 1.0
_LONGEST_LINE: Final = 1 << 20
_LONGEST_LOG_LINE: Final = 1000
"""A warning names a model and a hub, and quotes at most 200 characters of what the hub says."""
_RATE_WINDOW_S: Final = 10.0
_SHORTEST_RATE_S: Final = 0.001
"""Over less than this a rate says nothing, and may be too large for any number."""
_LEVELS: Final = logging.getLevelNamesMapping()
_KEPT_VARIABLES: Final = frozenset(
    {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {name for proxy in ("http", "https", "all", "no") for name in (f"{proxy}_proxy", f"{proxy}_proxy".upper())}
)


class RateMeter:
    """Bytes per second over the last seconds, and what is left at that rate."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def progress(self, now_s: float, advance: Advance) -> LoadProgress:
        """What the child said last, with what follows from what it said before."""
        self._samples.append((now_s, advance.bytes))
        while self._samples[0][0] < now_s - _RATE_WINDOW_S:
            self._samples.popleft()
        began_s, began_bytes = self._samples[0]
        elapsed_s, done = now_s - began_s, advance.bytes - began_bytes
        rate = round(done / elapsed_s) if elapsed_s >= _SHORTEST_RATE_S and done > 0 else None
        total = advance.total_bytes
        return LoadProgress(
            stage=advance.stage,
            file=advance.file,
            bytes=advance.bytes,
            total_bytes=total,
            fraction=min(1.0, advance.bytes / total) if total else None,
            bytes_per_s=rate,
            eta_s=None if not rate else max(0, total - advance.bytes) // rate,
        )


def fetch_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` a fetch needs: how to reach the network. Tokens travel with the order."""
    return {name: value for name, value in environ.items() if name in _KEPT_VARIABLES or name.startswith("LC_")} | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH")))),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }


async def run_fetch(
    order: FetchOrder,
    *,
    environment: Mapping[str, str],
    report: ProgressReporter,
    command: Sequence[str] = _COMMAND,
    ends_with_thread: bool = False,
    silence_limit_s: float = _SILENCE_LIMIT_S,
) -> Fetched:
    """Have an order carried out by a process of its own; returns where the files are.

    Cancelling kills the process; what it had fetched is where the next one goes on. It ends when the daemon does; with
    `ends_with_thread` the kernel sees to that too, see `LlamaCppHarness`. Raises `SourceUnavailable` also for a process
    that dies, takes longer than the order's deadline, or says nothing for `silence_limit_s` more than the time for
    which it may be slow; else what the child reports.
    """
    model_id, deadline_s = order.repository.model_id, order.limits.deadline_secs
    if ends_with_thread:
        command = (*command, "--parent", str(os.getpid()))
    silence = _Silence(order.limits.min_rate_window_secs + silence_limit_s)
    with anyio.move_on_after(deadline_s):
        return await _attend(order, environment=environment, report=report, command=command, silence=silence)
    message = f"{model_id}: fetching took longer than {deadline_s:g} s; the next try goes on where it ended"
    raise SourceUnavailable(message, model_id=model_id)


class _Silence:
    """For how long the child has said nothing, in looks: a daemon that was stopped itself must not blame its child."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s: Final = limit_s
        self._looks = 0

    @property
    def verdict(self) -> str | None:
        """What is wrong with a child that has reached the limit."""
        silent_s = self._looks * _LOOK_S
        return f"said nothing for {silent_s:g} s" if silent_s >= self._limit_s else None

    def end(self) -> None:
        """Take that the child has said something."""
        self._looks = 0

    async def watch(self, listening: anyio.CancelScope) -> None:
        """Give up listening at the limit."""
        while self.verdict is None:
            await anyio.sleep(_LOOK_S)
            self._looks += 1
        listening.cancel()


async def _attend(
    order: FetchOrder,
    *,
    environment: Mapping[str, str],
    report: ProgressReporter,
    command: Sequence[str],
    silence: _Silence,
) -> Fetched:
    model_id = order.repository.model_id
    last_words = _LastWords(order.repository)
    async with _open(command, environment=environment, model_id=model_id) as process:
        assert process.stdin is not None  # piped, as the others
        assert process.stdout is not None
        assert process.stderr is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(last_words.read, process.stderr)
            last = await _converse(order, process.stdin, process.stdout, report=report, silence=silence)
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
            # It ends by itself a moment after its last word; killing it now would race with whoever reaps it.
            await process.wait()
    match last:
        case Fetched():
            return last
        case Failed():
            raise to_error(last, model_id=model_id)
        case _:
            ended = silence.verdict or f"ended without an answer, with status {process.returncode}"
            message = f"{model_id}: the fetch process {ended}{last_words.quote()}"
            raise SourceUnavailable(message, model_id=model_id)


async def _converse(
    order: FetchOrder, stdin: ByteSendStream, stdout: ByteReceiveStream, *, report: ProgressReporter, silence: _Silence
) -> Frame | None:
    """Give the order and report what comes; returns the child's last word, None for one that does not say any."""
    meter, lines = RateMeter(), BufferedByteReceiveStream(stdout)
    last: Frame | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(silence.watch, tasks.cancel_scope)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # dead already: its end says so
            await stdin.send(encode_line(order))
        while isinstance(last := await _next_frame(lines), Advance | Alive):
            silence.end()
            if isinstance(last, Advance):
                report(meter.progress(anyio.current_time(), last))
        tasks.cancel_scope.cancel()
    return last


@asynccontextmanager
async def _open(command: Sequence[str], *, environment: Mapping[str, str], model_id: str) -> AsyncIterator[Process]:
    """A process that is gone when the block has ended."""
    try:
        # A cancellation that got in between would leave a process that nobody waits for.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
    except (OSError, RuntimeError) as error:  # trio starts a process from a thread
        if isinstance(error, RuntimeError) and not is_exhausted(error):
            raise
        raise SourceUnavailable(f"{model_id}: a fetch process cannot be started", model_id=model_id) from error
    try:
        await checkpoint_if_cancelled()
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            with anyio.move_on_after(_KILL_LIMIT_S):
                await process.wait()
            if process.returncode is None:
                logger.error("a fetch process cannot be killed; it hangs in a disk", extra={"pid": process.pid})
            else:
                await process.aclose()


async def _next_frame(lines: BufferedByteReceiveStream) -> Frame | None:
    """What the child says next; None when it has nothing more to say, or nothing that makes sense."""
    try:
        return decode_frame(await lines.receive_until(b"\n", _LONGEST_LINE))
    except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return None
    except (msgspec.DecodeError, anyio.DelimiterNotFound) as error:
        logger.error("a fetch process talks nonsense: %s", error)  # noqa: TRY400 - where it was read says nothing
        return None


class _LastWords:
    """The child's log, put into ours; remembers the last line for the case that it dies.

    Its lines are cut, and the token is taken out of them: a traceback, or a library that it uses, may show it.
    """

    def __init__(self, repository: HubRepository) -> None:
        self._model_id: Final = repository.model_id
        self._clean: Final = Redaction(repository.token)
        self._line: str | None = None

    def quote(self) -> str:
        return f" ({self._line})" if self._line else ""

    async def read(self, stderr: ByteReceiveStream) -> None:
        pending = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                *lines, pending = (pending + await stderr.receive()).split(b"\n")
                for line in lines:
                    self._log(line.decode("utf-8", "replace"))
                pending = pending[-_LONGEST_LINE:]

    def _log(self, line: str) -> None:
        """One line of the child's stderr: `LEVEL message`, or a part of a traceback."""
        name, _, message = line.partition(" ")
        level = _LEVELS.get(name)
        if level is None:
            level, message = logging.WARNING, line
        message = self._clean(message[:_LONGEST_LINE]).rstrip()[:_LONGEST_LOG_LINE]
        if message:
            self._line = message.strip()
            worker_logger.log(level, "%s", message, extra={"model_id": public_id(self._model_id)})
