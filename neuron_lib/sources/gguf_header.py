"""Reads the header of a GGUF file, and refuses a malformed or truncated file before native code sees it. Blocking.

Follows the specification of GGUF 2 and 3, and libllama where libllama is stricter. Reads only the header, through a
small window, and never the weights. Trusts no count, length or offset. Maps nothing: if a mapped file is truncated, its
reader is killed. Fields of `GgufHeader` that nobody reads yet are for the plan of a model's memory.
"""

import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.modality import capabilities_of, why_not_servable
from neuron_lib.os_errors import file_error
from neuron_lib.sources.gguf_cursor import Cursor, MalformedGguf, ReadAt
from neuron_lib.sources.gguf_types import ARRAY, BOOL, FILE_TYPES, INTEGERS, SCALARS, STRING, TENSOR_BLOCKS, U32, U64

__all__ = (
    "GgufHeader",
    "MalformedGguf",
    "ReadAt",
    "check_gguf",
    "check_model",
    "parse_gguf_header",
    "read_gguf_header",
)

_VERSIONS: Final = frozenset({2, 3})
_PREAMBLE_BYTES: Final = 4 + 4 + 8 + 8  # magic, version, tensor count, metadata count
_SMALLEST_TENSOR_BYTES: Final = 8 + 4 + 4 + 8  # empty name, no dimensions, type, offset
_SMALLEST_METADATA_BYTES: Final = 8 + 4 + 1  # empty key, type, one byte
_DEFAULT_ALIGNMENT: Final = 32
_MOST_DIMENSIONS: Final = 4
_LONGEST_TENSOR_NAME: Final = 63  # ggml has 64 bytes, the last one for a NUL
_LARGEST_I64: Final = 2**63 - 1
_MODEL: Final = "model"
"""The `general.type` of a file that is a model. Older files do not have the key."""

# Far beyond every real file. These bound the memory and the time that a hostile file can take.
_LARGEST_ALIGNMENT: Final = 1 << 20
_MOST_METADATA: Final = 8192
_MOST_TENSORS: Final = 65536
_MOST_LAYERS: Final = 4096
_LONGEST_KEY: Final = 1024
_LONGEST_TEXT: Final = 128


class GgufHeader(Struct, frozen=True, kw_only=True):
    """The facts in the header of a GGUF file. A value that the file does not have is None.

    Of a split model only the first file describes the model. Later files have a `split_no` above 0, no architecture,
    and count their own tensors. Texts have no control characters and at most 128 characters.

    `file_type` is the quant in the spelling of file names (`Q4_K_M`). It is None for an unknown type too.
    `parameter_count` and `tensor_bytes` are sums over the file's tensors, without the padding between them.
    `tensor_bytes` is None if a tensor has an unknown type. Head counts are one number, or one for each layer.
    `general_type` is what the file is instead of a model, such as "adapter".
    """

    version: int
    alignment: int
    data_offset: int
    tensor_count: int
    tensor_bytes: int | None
    parameter_count: int
    architecture: str | None = None
    name: str | None = None
    size_label: str | None = None
    file_type: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | tuple[int, ...] | None = None
    head_count_kv: int | tuple[int, ...] | None = None
    key_length: int | None = None
    value_length: int | None = None
    kv_lora_rank: int | None = None
    vocabulary_size: int | None = None
    has_chat_template: bool = False
    split_no: int | None = None
    split_count: int | None = None
    general_type: str | None = None
    adapter_type: str | None = None
    pooling_type: int | None = None
    is_causal: bool | None = None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do. Empty if no engine can serve it."""
        if self.refusal is not None:
            return ()
        return capabilities_of(architecture=self.architecture, pooling_type=self.pooling_type, is_causal=self.is_causal)

    @property
    def refusal(self) -> str | None:
        """A sentence that says why no engine can serve the file. None if one can."""
        return why_not_servable(
            architecture=self.architecture, general_type=self.general_type, adapter_type=self.adapter_type
        )

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of context memory for one token, with keys and values in f16.

        None if the file lacks the numbers, or compresses keys and values together (`kv_lora_rank`). An upper bound:
        layers with a window, with a recurrent state, or with shared cells take less.
        """
        heads, layers = self.head_count if self.head_count_kv is None else self.head_count_kv, self.block_count
        if heads is None or layers is None or self.kv_lora_rank is not None:
            return None
        if isinstance(heads, tuple):
            if len(heads) != layers:
                return None
            all_heads = sum(heads)
        else:
            all_heads = heads * layers
        if all_heads == 0:
            return 0
        key = self._head_length if self.key_length is None else self.key_length
        value = self._head_length if self.value_length is None else self.value_length
        return None if key is None or value is None else 2 * all_heads * (key + value)

    @property
    def _head_length(self) -> int | None:
        """The value of `key_length` and `value_length` if the file does not have them."""
        heads = self.head_count[:1] if isinstance(self.head_count, tuple) else (self.head_count,)
        return self.embedding_length // heads[0] if self.embedding_length and heads and heads[0] else None


def check_model(paths: Sequence[Path], *, model_id: str) -> GgufHeader:
    """Check all files of a model, and return the header of the first.

    If only the first file of a split model is given, the others must be beside it under the usual names, because
    libllama looks for them there. Raises the errors of `check_gguf`, and `PreflightFailed` with `UNSUPPORTED_MODEL` for
    a file that no engine can serve, such as an adapter.
    """
    first, *others = paths
    header = check_gguf(first, model_id=model_id)
    reason = header.refusal
    if reason is not None:
        raise PreflightFailed(PreflightKind.UNSUPPORTED_MODEL, f"{first} cannot be served: {reason}", model_id=model_id)
    for path in others or _parts_beside(first, header, model_id):
        check_gguf(path, model_id=model_id)
    return header


def _parts_beside(first: Path, header: GgufHeader, model_id: str) -> Iterator[Path]:
    """The paths of the other parts, one by one. A file may name more parts than there is memory for their names."""
    count = header.split_count or 1
    if count == 1:
        return
    stem = first.name.removesuffix(f"-00001-of-{count:05}.gguf")
    if header.split_no or stem == first.name:
        message = f"{first} is part {(header.split_no or 0) + 1} of {count}, but not named …-00001-of-{count:05}.gguf"
        raise PreflightFailed(PreflightKind.INVALID_GGUF, message, model_id=model_id)
    for number in range(2, count + 1):
        yield first.with_name(f"{stem}-{number:05}-of-{count:05}.gguf")


def check_gguf(path: Path, *, model_id: str) -> GgufHeader:
    """Check the model file `path`, and return its header.

    Raises `PreflightFailed`: `FILE_NOT_FOUND` if the file cannot be opened or read, `INVALID_GGUF` if it is not a GGUF,
    is malformed, or ends before its weights end. Raises `SourceUnavailable` while the host is out of descriptors or
    memory.
    """
    try:
        return read_gguf_header(path)
    except OSError as error:
        raise file_error(error, f"{path}: {error.strerror or error}", model_id=model_id) from error
    except MalformedGguf as error:
        message = f"{path} is no usable GGUF; fetch it again, or take another file: {error}"
        raise PreflightFailed(PreflightKind.INVALID_GGUF, message, model_id=model_id) from error


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of the regular file `path`. Raises `OSError` and `MalformedGguf`."""
    # Without O_NONBLOCK opening a named pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MalformedGguf("it is not a regular file")
        return parse_gguf_header(lambda offset, count: os.pread(descriptor, count, offset), status.st_size)
    finally:
        os.close(descriptor)


def parse_gguf_header(read_at: ReadAt, size_bytes: int) -> GgufHeader:
    """Read and check the header of a file of `size_bytes`. Raises `MalformedGguf`, and whatever `read_at` raises."""
    cursor = Cursor(read_at, size_bytes)
    version, tensor_count, metadata_count = _read_preamble(cursor)
    metadata = _Metadata(cursor, _index_metadata(cursor, metadata_count))
    tensor_table = cursor.offset
    alignment = _alignment(metadata)
    cursor.seek(tensor_table)
    tensors = _read_tensors(cursor, tensor_count, alignment)
    data_offset = -(-cursor.offset // alignment) * alignment
    if tensor_count and data_offset + tensors.end > size_bytes:
        needed = f"{tensors.last} needs {data_offset + tensors.end} bytes of it"
        raise MalformedGguf(f"it is cut short: {needed}, but it has {size_bytes}")
    architecture, general_type = metadata.text("general.architecture"), metadata.text("general.type")
    general_type = None if general_type == _MODEL else general_type
    split_no, split_count = _split(metadata)
    file_type = metadata.number("general.file_type")
    if architecture is None and general_type is None and not split_no:
        raise MalformedGguf("it names no architecture ('general.architecture'), so no engine can tell what it is")
    prefix = architecture or ""
    return GgufHeader(
        version=version,
        alignment=alignment,
        data_offset=data_offset,
        tensor_count=tensor_count,
        tensor_bytes=tensors.size_bytes,
        parameter_count=tensors.parameter_count,
        architecture=architecture,
        name=metadata.text("general.name"),
        size_label=metadata.text("general.size_label"),
        file_type=None if file_type is None else FILE_TYPES.get(file_type),
        context_length=metadata.number(f"{prefix}.context_length"),
        embedding_length=metadata.number(f"{prefix}.embedding_length"),
        block_count=metadata.number(f"{prefix}.block_count"),
        head_count=metadata.per_layer(f"{prefix}.attention.head_count"),
        head_count_kv=metadata.per_layer(f"{prefix}.attention.head_count_kv"),
        key_length=metadata.number(f"{prefix}.attention.key_length"),
        value_length=metadata.number(f"{prefix}.attention.value_length"),
        kv_lora_rank=metadata.number(f"{prefix}.attention.kv_lora_rank"),
        vocabulary_size=metadata.text_count("tokenizer.ggml.tokens"),
        has_chat_template=metadata.text("tokenizer.chat_template") is not None,
        split_no=split_no,
        split_count=split_count,
        general_type=general_type,
        adapter_type=metadata.text("adapter.type"),
        pooling_type=metadata.number(f"{prefix}.pooling_type"),
        is_causal=metadata.flag(f"{prefix}.attention.causal"),
    )


def _read_preamble(cursor: Cursor) -> tuple[int, int, int]:
    """Read the version and the counts of tensors and of metadata entries. Raises `MalformedGguf` if they are not
    plausible.
    """
    size_bytes = cursor.size_bytes
    if size_bytes < _PREAMBLE_BYTES:
        raise MalformedGguf(f"it ends after {size_bytes} bytes")
    magic, version_bytes = cursor.take(4), cursor.take(4)
    version = int.from_bytes(version_bytes, "little")
    tensors, metadata = cursor.scalar(U64), cursor.scalar(U64)
    if magic != b"GGUF":
        raise MalformedGguf(f"it begins with {magic!r}")
    if version not in _VERSIONS:
        is_big_endian = int.from_bytes(version_bytes, "big") in _VERSIONS
        raise MalformedGguf("it is big-endian" if is_big_endian else f"its version is {version}; 2 and 3 are known")
    needed = tensors * _SMALLEST_TENSOR_BYTES + metadata * _SMALLEST_METADATA_BYTES
    if needed > size_bytes - _PREAMBLE_BYTES or tensors > _MOST_TENSORS or metadata > _MOST_METADATA:
        announced = f"it announces {tensors} tensors and {metadata} metadata entries"
        raise MalformedGguf(
            f"{announced} but has {size_bytes} bytes; at most {_MOST_TENSORS} and {_MOST_METADATA} are read"
        )
    return version, tensors, metadata


def _index_metadata(cursor: Cursor, count: int) -> dict[str, tuple[int, int]]:
    """Walk over all entries. Returns the type of each value and the offset at which the value begins."""
    places: dict[str, tuple[int, int]] = {}
    for number in range(count):
        cursor.place = f"metadata entry {number}"
        spelled = cursor.name(longest=_LONGEST_KEY)
        try:
            key = spelled.decode()
        except UnicodeDecodeError:
            raise cursor.error(f"has a key that is not UTF-8: {_shown(spelled)}") from None
        cursor.place = f"metadata {_shown(spelled)}"
        if not key or key in places:
            raise cursor.error("appears twice" if key else "has an empty key")
        kind: int = cursor.scalar(U32)
        places[key] = kind, cursor.offset
        _skip_value(cursor, kind)
    return places


def _skip_value(cursor: Cursor, kind: int) -> None:
    count = 1
    if kind == ARRAY:
        kind, count = cursor.scalar(U32), cursor.scalar(U64)  # libllama has no arrays of arrays
    if kind == STRING:
        cursor.skip_texts(count)
    elif kind in SCALARS:
        cursor.skip(count * SCALARS[kind].size)
    elif kind == ARRAY:
        raise cursor.error("is an array of arrays, which libllama does not read")
    else:
        raise cursor.error(f"has values of the unknown type {kind}")


@dataclass(slots=True, frozen=True)
class _Metadata:
    """Looks up values in a header that has been walked over once. The value of an absent key is None."""

    _cursor: Cursor
    _places: dict[str, tuple[int, int]]

    def text(self, key: str) -> str | None:
        """The beginning of a string, fit for a log line. None also if nothing is left of it."""
        kind = self._go_to(key)
        if kind is None:
            return None
        if kind != STRING:
            raise self._cursor.error("is no string")
        count: int = self._cursor.scalar(U64)
        # A character has at most 4 bytes. One that is cut in two is ignored.
        text = self._cursor.take(min(count, 4 * _LONGEST_TEXT)).decode(errors="ignore")
        return "".join(c for c in " ".join(text.split()) if c.isprintable())[:_LONGEST_TEXT] or None

    def number(self, key: str) -> int | None:
        kind = self._go_to(key)
        return None if kind is None else self._integer(kind)

    def flag(self, key: str) -> bool | None:
        kind = self._go_to(key)
        if kind is None:
            return None
        if kind != BOOL:
            raise self._cursor.error("is no boolean")
        return bool(self._cursor.scalar(SCALARS[BOOL]))

    def per_layer(self, key: str) -> int | tuple[int, ...] | None:
        kind = self._go_to(key)
        if kind != ARRAY:
            return None if kind is None else self._integer(kind)
        item, count = self._cursor.scalar(U32), self._cursor.scalar(U64)
        if count > _MOST_LAYERS:
            raise self._cursor.error(f"describes {count} layers; {_MOST_LAYERS} are allowed")
        return tuple(self._integer(item) for _ in range(count))

    def text_count(self, key: str) -> int | None:
        """The length of an array of strings."""
        kind = self._go_to(key)
        if kind is None:
            return None
        if kind != ARRAY or self._cursor.scalar(U32) != STRING:
            raise self._cursor.error("is no array of strings")
        count: int = self._cursor.scalar(U64)
        return count

    def error(self, problem: str) -> MalformedGguf:
        """An error about the key that was asked for last."""
        return self._cursor.error(problem)

    def _go_to(self, key: str) -> int | None:
        kind, offset = self._places.get(key, (None, 0))
        if kind is not None:
            self._cursor.place = f"metadata {key!r}"
            self._cursor.seek(offset)
        return kind

    def _integer(self, kind: int) -> int:
        if kind not in INTEGERS:
            raise self._cursor.error("is no integer")
        number: int = self._cursor.scalar(SCALARS[kind])
        if number < 0:
            raise self._cursor.error(f"is negative: {number}")
        return number


def _alignment(metadata: _Metadata) -> int:
    alignment = metadata.number("general.alignment")
    if alignment is None:
        return _DEFAULT_ALIGNMENT
    if alignment.bit_count() != 1 or alignment > _LARGEST_ALIGNMENT:
        raise metadata.error(f"is {alignment}, which is no power of two up to {_LARGEST_ALIGNMENT}")
    return alignment


def _split(metadata: _Metadata) -> tuple[int | None, int | None]:
    """The number of this part, from 0 on, and the number of all parts."""
    count, number = metadata.number("split.count"), metadata.number("split.no")
    if number is not None and count is not None and number >= max(count, 1):
        raise metadata.error(f"is {number}, but there are {count} parts")
    return number, count


@dataclass(slots=True, frozen=True)
class _Tensors:
    """The sums over a tensor table. `end` is where the data of `last` ends. No other tensor ends after it."""

    size_bytes: int | None
    parameter_count: int
    end: int
    last: str


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> _Tensors:
    names: set[bytes] = set()
    size_bytes: int | None = 0
    begin: int | None = 0  # where the next tensor must begin; None after an unknown type
    parameter_count, end, last = 0, 0, ""
    for number in range(count):
        cursor.place = f"tensor {number}"
        name = cursor.name(longest=_LONGEST_TENSOR_NAME)
        cursor.place = f"tensor {_shown(name)}"
        if name in names:
            raise cursor.error("appears twice")
        names.add(name)
        shape = _shape(cursor)
        kind, offset = cursor.scalar(U32), cursor.scalar(U64)
        if offset % alignment:
            raise cursor.error(f"begins at {offset} of the data, which is no multiple of {alignment}")
        if begin is not None and offset != begin:
            raise cursor.error(f"begins at {offset} of the data instead of at {begin}, where libllama wants it")
        tensor_bytes = _tensor_bytes(cursor, shape, kind)
        begin = None if begin is None or tensor_bytes is None else offset + -(-tensor_bytes // alignment) * alignment
        size_bytes = None if size_bytes is None or tensor_bytes is None else size_bytes + tensor_bytes
        parameter_count += math.prod(shape)
        if offset + (tensor_bytes or 0) >= end:
            end, last = offset + (tensor_bytes or 0), cursor.place
    return _Tensors(size_bytes=size_bytes, parameter_count=parameter_count, end=end, last=last)


def _shape(cursor: Cursor) -> tuple[int, ...]:
    count: int = cursor.scalar(U32)
    if count > _MOST_DIMENSIONS:
        raise cursor.error(f"has {count} dimensions; {_MOST_DIMENSIONS} are allowed")
    shape = tuple(cursor.scalar(U64) for _ in range(count))
    if math.prod(max(length, 1) for length in shape) > _LARGEST_I64:
        raise cursor.error(f"has more elements than 64 bits can count: {' × '.join(map(str, shape))}")
    return shape


def _tensor_bytes(cursor: Cursor, shape: tuple[int, ...], kind: int) -> int | None:
    if kind not in TENSOR_BLOCKS:
        return None
    block_elements, block_bytes = TENSOR_BLOCKS[kind]
    row = shape[0] if shape else 1
    if row % block_elements:
        raise cursor.error(f"has rows of {row} elements, which are no whole blocks of {block_elements}")
    return math.prod(shape) // block_elements * block_bytes


def _shown(name: bytes) -> str:
    """A name for an error: in quotes, without control characters, not too long."""
    return repr(name[:_LONGEST_TENSOR_NAME].decode(errors="replace"))
