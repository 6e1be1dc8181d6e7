"""How the process of an engine begins, and how it ends for certain."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
from anyio.abc import Process, SocketStream

from neuron_lib.engine.protocol import Close, encode_frame
from neuron_lib.errors import LoadFailed, SourceUnavailable, UnloadFailed
from neuron_lib.exhaustion import is_exhausted
from neuron_lib.logs import get_logger

__all__ = ("close_stream", "describe_exit", "end_process", "send_signal", "starting")

logger = get_logger(__name__)


@contextmanager
def starting(model_id: str) -> Iterator[None]:
    """No descriptors, no processes and no threads pass; that there is no such program does not."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # trio starts a process from a thread
        if is_exhausted(error):
            raise SourceUnavailable(f"{model_id}: an engine process cannot be started", model_id=model_id) from error
        if isinstance(error, OSError):
            raise LoadFailed("an engine process cannot be started", model_id=model_id) from error
        raise


async def close_stream(stream: SocketStream) -> None:
    """Shielded, because a cancellation here would take the place of an error that is on its way."""
    with anyio.CancelScope(shield=True):
        await stream.aclose()


async def end_process(
    process: Process, stream: SocketStream, *, model_id: str, limit_s: float, kill_limit_s: float
) -> None:
    """Close politely, then kill; returns when the process is reaped, so its memory is back.

    Raises `UnloadFailed` for a process that even a kill does not end.
    """
    with anyio.CancelScope(shield=True):
        with anyio.move_on_after(limit_s):
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await stream.send(encode_frame(Close()))
            await process.wait()
        if process.returncode is None:
            logger.warning("engine did not close, killing it", extra={"pid": process.pid})
            send_signal(process, signal.SIGKILL)
            with anyio.move_on_after(kill_limit_s):
                await process.wait()
        if process.returncode is None:
            if process.stderr is not None:
                await process.stderr.aclose()
            raise UnloadFailed(
                f"engine process {process.pid} cannot be killed and keeps its memory; it hangs in a driver",
                model_id=model_id,
                pid=process.pid,
            )
        await process.aclose()


def send_signal(process: Process, number: signal.Signals) -> None:
    """Unlike the methods of the event loops this reaps nothing, so the exit status stays for whoever waits for it."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def describe_exit(code: int | None) -> str:
    """How a process with this status, as of `subprocess`, has ended; None for one that has not."""
    if code is None:
        return "hung up, and cannot be killed"
    if code >= 0:
        return f"exit status {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"
