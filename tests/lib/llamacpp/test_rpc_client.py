"""What an RPC server says of its devices, and what becomes of programs at the address that are no such server."""

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

from neuron_lib.llamacpp.rpc_client import PROTOCOL_VERSION, NoRpcAnswer, RpcMemory, ask_rpc_server

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.both_loops]

Talk = Callable[[SocketStream], Awaitable[None]]


def answer(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def hello(version: int = PROTOCOL_VERSION) -> bytes:
    return answer(bytes((version, 0, 0, 0)) + bytes(24))


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[str]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's `extra`, not Django's
        yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


def saying(*answers: bytes) -> Talk:
    """A server that reads what comes and gives all its answers at once."""

    async def talk(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"".join(answers))
            await anyio.sleep_forever()

    return talk


async def test_a_server_tells_the_memory_of_each_device() -> None:
    memory = [answer(struct.pack("<QQ", free, total)) for free, total in ((1, 2), (3, 4))]
    async with server(saying(hello(), answer(struct.pack("<I", 2)), *memory)) as address:
        assert await ask_rpc_server(address) == (RpcMemory(1, 2), RpcMemory(3, 4))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (hello(PROTOCOL_VERSION + 1), "it speaks version 8 of the protocol, and this host speaks 7"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer like an RPC server"),
        (hello() + answer(struct.pack("<I", 1 << 31)), "it names 2147483648 devices, and at most 64 are taken"),
        (hello() + answer(b"\1"), "an answer has 1 bytes, and 4 were expected"),
    ],
)
async def test_what_is_no_such_server_is_refused_by_name(said: bytes, complaint: str) -> None:
    async with server(saying(said)) as address:
        with pytest.raises(NoRpcAnswer, match=f"{address} .*{complaint}"):
            await ask_rpc_server(address)


async def test_a_server_that_hangs_up_gave_no_answer() -> None:
    async def hang_up(stream: SocketStream) -> None:
        await stream.receive()
        await stream.aclose()

    async with server(hang_up) as address:
        with pytest.raises(NoRpcAnswer, match=f"{address} hung up"):
            await ask_rpc_server(address)


async def test_a_server_that_serves_another_program_is_not_waited_for() -> None:
    async with server(saying()) as address:
        with pytest.raises(NoRpcAnswer, match=f"{address} did not answer within 0.1 s: it serves another program"):
            await ask_rpc_server(address, limit_s=0.1)


async def test_an_address_where_nobody_listens_is_named_with_the_reason() -> None:
    async with server(saying()) as address:
        pass
    with pytest.raises(NoRpcAnswer, match=f"{address} cannot be reached"):
        await ask_rpc_server(address)
