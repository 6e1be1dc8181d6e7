"""GGUF files spelled byte by byte, so that tests can spell them wrongly too."""

import struct
from collections.abc import Sequence

__all__ = ("array", "entry", "gguf", "tensor", "text", "u16", "u32", "u64")

U32, STRING, ARRAY = 4, 8, 9


def u16(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return u64(len(encoded)) + encoded


def array(kind: int, count: int, items: bytes) -> bytes:
    return u32(kind) + u64(count) + items


def entry(key: str | bytes, value: int | str | bytes, kind: int | None = None) -> bytes:
    """One metadata entry: a number is a u32, a text a string, and bytes are a value of `kind`, taken as they are."""
    if isinstance(value, int):
        return text(key) + u32(U32 if kind is None else kind, value)
    if isinstance(value, str):
        return text(key) + u32(STRING if kind is None else kind) + text(value)
    return text(key) + u32(ARRAY if kind is None else kind) + value


def tensor(name: str | bytes, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(shape)) + u64(*shape) + u32(kind) + u64(offset)


def gguf(
    metadata: Sequence[bytes] = (entry("general.architecture", "llama"),),
    tensors: Sequence[bytes] = (),
    *,
    data_bytes: int = 0,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file, whose data are zeros; without arguments the smallest one that is a model."""
    header = b"GGUF" + u32(version) + u64(len(tensors), len(metadata)) + b"".join(metadata) + b"".join(tensors)
    return header + bytes(-len(header) % alignment + data_bytes)
