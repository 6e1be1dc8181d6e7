"""The process of an engine: started with one end of a socket pair, ended by a `Close` frame or by a kill.

Knows no other frame of the protocol on the socket.
"""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final, NoReturn

import anyio
from anyio.abc import SocketStream, UNIXSocketStream

from neuron_lib.child.log import ChildLog
from neuron_lib.child.parent_death import parent_option
from neuron_lib.child.process import Child, ending, start_child
from neuron_lib.engine.protocol import Close, encode_frame
from neuron_lib.errors import UnloadFailed
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.os_errors import start_error

__all__ = ("engine_log", "open_engine_child", "with_rpc_servers")

engine_logger: FieldLogger = get_logger("neuron_lib.engine")

_RPC_MARKS: Final = ("Remote RPC server", "RPC handshake failed", "Failed to connect to")
_DEATH_MARKS: Final = ("GGML_ASSERT", "what():", "libgomp: ", *_RPC_MARKS)
"""Words in the lines that native code writes when it ends the process."""


def engine_log(*, model_id: str, pid: int) -> ChildLog:
    """What an engine writes, as records of the logger `neuron_lib.engine`."""
    return ChildLog(engine_logger, fields={"model_id": model_id, "pid": pid}, death_marks=_DEATH_MARKS)


def with_rpc_servers(told: str, servers: Sequence[str]) -> str:
    """The reason of a death, with the RPC servers if it tells of one. libllama names none that it has lost."""
    is_lost = bool(servers) and any(mark in told for mark in _RPC_MARKS)
    return f"it lost an RPC server, one of {', '.join(servers)}: {told}" if is_lost else told


@asynccontextmanager
async def open_engine_child(
    command: Sequence[str],
    *,
    model_id: str,
    environment: Mapping[str, str],
    ends_with_thread: bool,
    close_limit_s: float,
    kill_limit_s: float,
) -> AsyncIterator[tuple[Child, SocketStream]]:
    """An engine process and our end of its socket. Both are gone when the block has ended.

    `command` gets `--fd N` appended, and `--parent` with `ends_with_thread` (`neuron_lib.child.parent_death`). At the
    end of the block the engine has `close_limit_s` to close. Raises `SourceUnavailable` while the host is out of
    descriptors, memory or processes, `LoadFailed` for a program that cannot be started, and `UnloadFailed` for an
    engine that is still there `kill_limit_s` after its kill.
    """
    with _starting(model_id):
        ours, theirs = socket.socketpair()
    async with AsyncExitStack() as held:
        held.enter_context(ours)  # until the stream owns it; closing it twice does no harm
        with theirs:
            stream = await UNIXSocketStream.from_socket(ours)
            held.push_async_callback(_close, stream)
            options = ("--fd", str(theirs.fileno()), *parent_option(ends_with_thread=ends_with_thread))
            with _starting(model_id):
                engine = await start_child(
                    [*command, *options],
                    name="engine",
                    environment=environment,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                )

        async def ask_to_close(_engine: Child) -> None:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await stream.send(encode_frame(Close()))

        async with ending(
            engine,
            ask=ask_to_close,
            ask_limit_s=close_limit_s,
            kill_limit_s=kill_limit_s,
            on_left=partial(_give_up, model_id),
        ):
            yield engine, stream


def _give_up(model_id: str, engine: Child) -> NoReturn:
    raise UnloadFailed(
        f"engine process {engine.pid} cannot be killed and keeps its memory; it hangs in a driver",
        model_id=model_id,
        pid=engine.pid,
    )


@contextmanager
def _starting(model_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise start_error(error, "an engine process", model_id=model_id) from error


async def _close(stream: SocketStream) -> None:
    """Close the stream. Shielded: a cancellation here would take the place of an error that is on its way."""
    with anyio.CancelScope(shield=True):
        await stream.aclose()
