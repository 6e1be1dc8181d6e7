"""Looks at the first bytes of a model file, so that what is plainly no GGUF never reaches native code. Blocking.

It bounds the two counts by the size of the file; it does not read the metadata or the tensor table.
"""

import os
import stat
import struct
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("check_gguf",)

_HEADER: Final = struct.Struct("<4sIQQ")  # magic, version, tensor count, metadata count
_VERSIONS: Final = frozenset({2, 3})
_SMALLEST_TENSOR_BYTES: Final = 8 + 4 + 4 + 8  # empty name, no dimensions, type, offset
_SMALLEST_METADATA_BYTES: Final = 8 + 4 + 1  # empty key, type, one byte


def check_gguf(path: Path, *, model_id: str) -> None:
    """Raise `PreflightFailed` (`FILE_NOT_FOUND`, `INVALID_GGUF`) unless `path` begins like a GGUF of version 2 or 3."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            header = os.read(descriptor, _HEADER.size) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id) from error
    problem = "it is not a regular file" if header is None else _problem(header, status.st_size)
    if problem:
        raise PreflightFailed(PreflightKind.INVALID_GGUF, f"{path} is no usable GGUF: {problem}", model_id=model_id)


def _problem(header: bytes, size_bytes: int) -> str | None:
    if len(header) < _HEADER.size:
        return f"it ends after {len(header)} bytes"
    magic, version, tensors, metadata = _HEADER.unpack(header)
    if magic != b"GGUF":
        return f"it begins with {magic!r}"
    if version not in _VERSIONS:
        is_big_endian = int.from_bytes(header[4:8], "big") in _VERSIONS
        return "it is big-endian" if is_big_endian else f"its version is {version}; 2 and 3 are known"
    if tensors * _SMALLEST_TENSOR_BYTES + metadata * _SMALLEST_METADATA_BYTES > size_bytes - _HEADER.size:
        return f"it announces {tensors} tensors and {metadata} metadata entries but has {size_bytes} bytes"
    return None
