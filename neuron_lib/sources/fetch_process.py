"""A fetch process seen from the daemon: one order, its progress, its end. Decides nothing about what is fetched."""

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
)
from neuron_lib.sources.foreign_text import Redaction
from neuron_lib.sources.repository import HubRepository
from neuron_lib.types import LoadProgress, public_id

__all__ = ("RateMeter", "fetch_environment", "run_fetch")

logger = get_logger(__name__)
worker_logger = get_logger("neuron_lib.sources.fetch_worker")

_COMMAND: Final = (sys.executable, "-P", "-m", "neuron_lib.sources.fetch_worker")
_KILL_LIMIT_S: Final = 5.0
_LAST_WORDS_LIMIT_S: Final = 2.0
_SILENCE_LIMIT_S: Final = 120.0
"""Beyond `min_rate_window_secs`: it says something five times a second, and after each question to a hub, which takes
that long where every address of the hub is dead."""
_LONGEST_FRAME_BYTES: Final = 1 << 20
_LONGEST_LOG_LINE: Final = 1000
"""A warning names a model and a hub, and quotes at most 200 characters of what the hub says."""
_RATE_WINDOW_S: Final = 10.0
_SHORTEST_RATE_S: Final = 0.001
"""A rate over a shorter time says nothing, and may be too large for a float."""
_NAMES: Final = (
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *(name for proxy in ("http", "https", "all", "no") for name in (f"{proxy}_proxy", f"{proxy}_proxy".upper())),
)
"""The variables that say how to reach the network."""


class RateMeter:
    """Bytes per second over the last seconds, and what is left at that rate."""

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
    """Have an order carried out by a process of its own; returns where the files are.

    Cancelling kills the process; the next one goes on with what is fetched by then. The process ends when the daemon
    does; with `ends_with_thread` the kernel sees to that too, see `LlamaCppHarness`. Raises what the process reports,
    and `SourceUnavailable` for a process that cannot be started, dies, takes longer than the order's deadline, or says
    nothing for `silence_limit_s` more than the time for which it may be slow.
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
        # It ends by itself a moment after its last word; killing it now would race with whoever reaps it.
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
    """Give the order and report what comes; returns the child's last word, None for a child that does not say any."""
    meter, lines = RateMeter(), BufferedByteReceiveStream(child.stdout)
    last: Frame | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_silence, watchdog, tasks.cancel_scope)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # dead already: its end says so
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
    """The next frame of the child; None at the end of its output, and for a line that is no frame."""
    try:
        return decode_frame(await lines.receive_until(b"\n", _LONGEST_FRAME_BYTES))
    except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return None
    except (msgspec.DecodeError, anyio.DelimiterNotFound) as error:
        logger.error("a fetch process talks nonsense: %s", error)  # noqa: TRY400 - where it was read says nothing
        return None


def _worker_log(repository: HubRepository) -> ChildLog:
    """The child's log, put into ours.

    The token is taken out of the lines: a traceback, or a library that the child uses, may show it.
    """
    return ChildLog(
        worker_logger,
        fields={"model_id": public_id(repository.model_id)},
        clean=Redaction(repository.token),
        longest_line=_LONGEST_LOG_LINE,
    )
