"""Asks an RPC server of llama.cpp which devices it has. Knows three questions of the protocol and computes nothing.

A message is the number of a command (1 byte), the length of what follows (8 bytes), and that. An answer is a length
and that. Numbers are little-endian. A server talks to one program at a time: it answers the next one when the program
before it has hung up and the server has freed that program's memory.
"""

import struct
from typing import Final

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from msgspec import Struct

__all__ = ("PROTOCOL_VERSION", "NoRpcAnswer", "RpcMemory", "ask_rpc_server", "split_address")

PROTOCOL_VERSION: Final = 7
"""The major version that the bundled llama.cpp speaks. Servers of another one are refused, as libllama does."""

_HELLO: Final = 14
_DEVICE_COUNT: Final = 15
_DEVICE_MEMORY: Final = 11
_CAPABILITY_BYTES: Final = 24
"""What both sides offer beside TCP, such as RDMA. All zeros offer nothing."""
_MOST_DEVICES: Final = 64
_LIMIT_S: Final = 5.0


class NoRpcAnswer(Exception):
    """The server did not say what was asked. The text says why."""


class RpcMemory(Struct, frozen=True):
    """The memory of one device in bytes. A device that is a CPU calls all memory of its host free."""

    free_bytes: int
    total_bytes: int


async def ask_rpc_server(address: str, *, limit_s: float = _LIMIT_S) -> tuple[RpcMemory, ...]:
    """The devices of the server at `address` (`host:port`), in its own order. Raises `NoRpcAnswer`, after `limit_s` at
    the latest.
    """
    host, port = split_address(address)
    connected = False
    try:
        with anyio.fail_after(limit_s):
            async with await anyio.connect_tcp(host, port) as stream:
                connected = True
                return await _devices(stream, BufferedByteReceiveStream(stream))
    except TimeoutError:
        why = (
            "it serves another program, or waits for one that is gone; then start it again"
            if connected
            else "the network may drop the connection"
        )
        raise NoRpcAnswer(f"the RPC server {address} did not answer within {limit_s:g} s: {why}") from None
    except OSError as error:
        raise NoRpcAnswer(f"the RPC server {address} cannot be reached: {_root(error)}") from error
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
        text = f"the RPC server {address} hung up without an answer: it may be another program, or of another version"
        raise NoRpcAnswer(text) from error
    except ValueError as error:
        raise NoRpcAnswer(f"{address} does not answer like an RPC server of llama.cpp: {error}") from error


def split_address(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


async def _devices(stream: SocketStream, answers: BufferedByteReceiveStream) -> tuple[RpcMemory, ...]:
    hello = await _ask(stream, answers, _HELLO, bytes(_CAPABILITY_BYTES), 4 + _CAPABILITY_BYTES)
    if hello[0] != PROTOCOL_VERSION:
        raise ValueError(f"it speaks version {hello[0]} of the protocol, and this host speaks {PROTOCOL_VERSION}")
    (count,) = struct.unpack("<I", await _ask(stream, answers, _DEVICE_COUNT, b"", 4))
    if count > _MOST_DEVICES:
        raise ValueError(f"it names {count} devices, and at most {_MOST_DEVICES} are taken")
    memories = []
    for index in range(count):
        answer = await _ask(stream, answers, _DEVICE_MEMORY, struct.pack("<I", index), 16)
        free_bytes, total_bytes = struct.unpack("<QQ", answer)
        memories.append(RpcMemory(free_bytes, total_bytes))
    return tuple(memories)


async def _ask(
    stream: SocketStream, answers: BufferedByteReceiveStream, command: int, question: bytes, size: int
) -> bytes:
    await stream.send(struct.pack("<BQ", command, len(question)) + question)
    (length,) = struct.unpack("<Q", await answers.receive_exactly(8))
    if length != size:
        raise ValueError(f"an answer has {length} bytes, and {size} were expected")
    return await answers.receive_exactly(size)


def _root(error: BaseException) -> str:
    """The words of the system in an error of anyio, which may have tried several addresses of a name."""
    while isinstance(error.__cause__ or error, BaseExceptionGroup) or error.__cause__ is not None:
        error = error.__cause__ or error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error)
