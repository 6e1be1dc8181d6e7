"""The rules of a `SocketReader`, for the one of the library, and for the one of the service, which needs asyncio."""

import socket
import struct
from collections.abc import Iterator

import anyio
import pytest

from neuron_lib import sockets
from neuron_lib.sockets import SocketReader
from neuron_service import socket_reader
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


UVLOOP = ("asyncio", {"use_uvloop": True})


@pytest.fixture(
    params=[
        (sockets.read_socket, "asyncio"),
        (sockets.read_socket, UVLOOP),
        (sockets.read_socket, "trio"),
        (socket_reader.read_socket, "asyncio"),
        (socket_reader.read_socket, UVLOOP),
    ],
    ids=["library-asyncio", "library-uvloop", "library-trio", "service-asyncio", "service-uvloop"],
)
def case(request: pytest.FixtureRequest) -> tuple[SocketReader, object]:
    reader_and_loop: tuple[SocketReader, object] = request.param
    return reader_and_loop


@pytest.fixture
def anyio_backend(case: tuple[SocketReader, object]) -> object:
    return case[1]


@pytest.fixture
def read(case: tuple[SocketReader, object]) -> SocketReader:
    return case[0]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_all_bytes_come_in_order_until_the_other_end_hangs_up(
    read: SocketReader, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    taken: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, ours, taken.append)
        for number in range(50):
            theirs.sendall(struct.pack("<I", number))
            if number % 7 == 0:
                await let_others_run()
        theirs.close()
    assert b"".join(taken) == struct.pack("<50I", *range(50))


async def test_what_goes_wrong_with_the_bytes_is_raised_and_no_more_are_taken(
    read: SocketReader, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        raise ZeroDivisionError

    theirs.sendall(b"a")
    with pytest.raises(ZeroDivisionError):
        await read(ours, take)
    theirs.sendall(b"b")
    await let_others_run()
    assert taken == [b"a"]


async def test_the_socket_stays_open_and_unread_after_a_cancellation(
    read: SocketReader, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    taken: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, ours, taken.append)
        await let_others_run()
        tasks.cancel_scope.cancel()
    await let_others_run()
    theirs.sendall(b"later")
    await let_others_run()
    assert (taken, ours.recv(16)) == ([], b"later")


async def test_an_end_that_dies_with_bytes_unread_ends_the_reading(
    read: SocketReader, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    ours.sendall(b"never read")
    theirs.close()
    await read(ours, lambda _data: None)
