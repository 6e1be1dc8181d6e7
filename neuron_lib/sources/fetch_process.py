"""The daemon's side of a fetch process: gives one order, reports its progress, waits for its end.

Does not decide what is fetched.
"""

import math
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from neuron_lib.child.environment import chosen_variables, own_modules
from neuron_lib.child.log import ChildLog
from neuron_lib.child.parent_death import parent_option
from neuron_lib.child.process import Child, ending, start_child, watch
from neuron_lib.child.watchdog import Watchdog
from neuron_lib.error_frames import from_frame
from neuron_lib.errors import LoadFailed, SourceUnavailable
from neuron_lib.harness import ProgressReporter
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.sources.fetch_protocol import (
    Advance,
    Alive,
    Failed,
    Fetched,
    FetchOrder,
    Frame,
    decode_frame,
    encode_line,
)
from neuron_lib.sources.foreign_text import Redaction
from neuron_lib.sources.repository import HubRepository
from neuron_lib.types import LoadProgress, public_id

__all__ = ("RateMeter", "fetch_environment", "run_fetch")

logger: FieldLogger = get_logger(__name__)
worker_logger: FieldLogger = get_logger("neuron_lib.sources.fetch_worker")

_COMMAND: Final = (sys.executable, "-P", "-m", "neuron_lib.sources.fetch_worker")
_KILL_LIMIT_S: Final = 5.0
_LAST_WORDS_LIMIT_S: Final = 2.0
_SILENCE_LIMIT_S: Final = 120.0
"""Seconds, in addition to `min_rate_window_secs`. The process sends a frame five times a second, and one after each
question to a hub. A question takes this long if no address of the hub answers.
"""
_LONGEST_FRAME_BYTES: Final = 1 << 20
_LONGEST_LOG_LINE: Final = 1000
"""Characters. A warning names a model and a hub, and quotes at most 200 characters of the hub's words."""
_RATE_WINDOW_S: Final = 10.0
_SHORTEST_RATE_S: Final = 0.001
"""Seconds. A rate over a shorter time is meaningless, and may be too large for a float."""
_NAMES: Final = (
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *(name for proxy in ("http", "https", "all", "no") for name in (f"{proxy}_proxy", f"{proxy}_proxy".upper())),
)
"""The variables that say how to reach the network."""


class RateMeter:
    """Bytes per second over the last seconds, and the time that the rest takes at that rate."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def progress(self, now_s: float, advance: Advance) -> LoadProgress:
        """The last report of the child, with the rate and the time left that follow from its earlier reports."""
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
    """The part of `environ` that a fetch needs: how to reach the network. Tokens travel with the order."""
    return {
        **chosen_variables(environ, names=_NAMES),
        **own_modules(environ),
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
    """Carry out an order in a process of its own. Returns the paths of the files.

    Cancelling kills the process. The next fetch continues with the bytes that are on disk. The process ends when the
    daemon ends; for `ends_with_thread` see `LlamaCppHarness`. Raises the error that the process reports. Raises
    `SourceUnavailable` for a process that cannot be started, dies, takes longer than the order's deadline, or is silent
    for too long: `silence_limit_s` more than the time for which it may be slow.
    """
    model_id, limits = order.repository.model_id, order.limits
    command = (*command, *parent_option(ends_with_thread=ends_with_thread))
    watchdog = Watchdog(stall_limit_s=math.inf, silence_limit_s=limits.min_rate_window_secs + silence_limit_s)
    with anyio.move_on_after(limits.deadline_secs):
        return await _attend(order, environment=environment, report=report, command=command, watchdog=watchdog)
    message = f"{model_id}: fetching took longer than {limits.deadline_secs:g} s; the next try goes on where it ended"
    raise SourceUnavailable(message, model_id=model_id)


async def _attend(
    order: FetchOrder,
    *,
    environment: Mapping[str, str],
    report: ProgressReporter,
    command: Sequence[str],
    watchdog: Watchdog,
) -> Fetched:
    model_id = order.repository.model_id
    log = _worker_log(order.repository)
    try:
        child = await start_child(
            command,
            name="a fetch process",
            environment=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise SourceUnavailable(f"{model_id}: a fetch process cannot be started", model_id=model_id) from error
    async with ending(child, kill_limit_s=_KILL_LIMIT_S), anyio.create_task_group() as tasks:
        tasks.start_soon(log.read, child.stderr)
        last = await _converse(order, child, report=report, watchdog=watchdog)
        tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
        # The process ends by itself a moment after its last frame. It is not killed yet, because the event loop may
        # reap it at the same moment.
        await child.wait()
    match last:
        case Fetched():
            return last
        case Failed():
            raise from_frame(last.error, unknown=LoadFailed)
        case _:
            ended = f"ended without an answer, with status {child.returncode}"
            if watchdog.verdict is not None:
                ended = f"was {watchdog.verdict}"
            quote = f" ({log.last_line})" if log.last_line else ""
            raise SourceUnavailable(f"{model_id}: the fetch process {ended}{quote}", model_id=model_id)


async def _converse(order: FetchOrder, child: Child, *, report: ProgressReporter, watchdog: Watchdog) -> Frame | None:
    """Send the order and report the progress. Returns the last frame, or None for a child that ends without one."""
    meter, lines = RateMeter(), BufferedByteReceiveStream(child.stdout)
    last: Frame | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_silence, watchdog, tasks.cancel_scope)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the child is dead, and its output ends
            await child.stdin.send(encode_line(order))
        while isinstance(last := await _next_frame(lines), Advance | Alive):
            watchdog.note_life()
            if isinstance(last, Advance):
                report(meter.progress(anyio.current_time(), last))
        tasks.cancel_scope.cancel()
    return last


async def _watch_silence(watchdog: Watchdog, listening: anyio.CancelScope) -> None:
    await watch(watchdog)
    listening.cancel()


async def _next_frame(lines: BufferedByteReceiveStream) -> Frame | None:
    """The next frame of the child. None at the end of its output, and for a line that is not a frame."""
    try:
        return decode_frame(await lines.receive_until(b"\n", _LONGEST_FRAME_BYTES))
    except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return None
    except (msgspec.DecodeError, anyio.DelimiterNotFound) as error:
        logger.error("a fetch process sent a line that is no frame: %s", error)  # noqa: TRY400 - the error says it all
        return None


def _worker_log(repository: HubRepository) -> ChildLog:
    """Writes the child's log into ours.

    The token is removed from the lines, because a traceback or a library may show it.
    """
    return ChildLog(
        worker_logger,
        fields={"model_id": public_id(repository.model_id)},
        clean=Redaction(repository.token),
        longest_line=_LONGEST_LOG_LINE,
    )
