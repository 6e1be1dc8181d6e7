"""Whatever bytes a file has: a header, or one kind of error that says where and what; never much memory or reading."""

import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.gguf_cursor import MalformedGguf
from neuron_lib.sources.gguf_header import GgufHeader, check_gguf, parse_gguf_header
from tests.examples import examples
from tests.fakes.gguf_bytes import array, entry, gguf, tensor, text, u16, u32, u64
from tests.fakes.synthetic_gguf import write_synthetic

MIB = 1 << 20
ARCHITECTURE = entry("general.architecture", "llama")
SMALL = gguf(
    [
        ARCHITECTURE,
        entry("general.alignment", 64),
        entry("general.name", "small"),
        entry("llama.block_count", 2),
        entry("llama.attention.head_count_kv", array(4, 2, u32(1, 2))),
        entry("tokenizer.ggml.tokens", array(8, 3, text("a") + text("bb") + text(""))),
        entry("tokenizer.ggml.scores", array(6, 3, bytes(12))),
        entry("tokenizer.ggml.add_bos_token", b"\1", 7),
        entry("tokenizer.chat_template", "{{ messages }}"),
        entry("split.no", u16(0), 2),
    ],
    [tensor("x", [32, 3], 2), tensor("yy", [8], 0, 64), tensor("z", [2, 2, 2, 2], 1, 128)],
    alignment=64,
    data_bytes=160,
)


class Bytes:
    """A file in memory that knows how much of it was read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.bytes_read = 0

    def __call__(self, offset: int, count: int) -> bytes:
        assert 0 <= offset <= offset + count <= len(self.content)
        self.bytes_read += count
        return self.content[offset : offset + count]


def parse(content: bytes) -> GgufHeader:
    return parse_gguf_header(Bytes(content), len(content))


def header_or_problem(content: bytes) -> GgufHeader | str:
    try:
        return parse(content)
    except MalformedGguf as error:
        return str(error)


def preamble(magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, metadata: int = 0) -> bytes:
    return struct.pack("<4sIQQ", magic, version, tensors, metadata)


def described(*entries: bytes) -> bytes:
    return gguf([ARCHITECTURE, *entries])


def weighed(*tensors: bytes, data_bytes: int = 64) -> bytes:
    return gguf([ARCHITECTURE], tensors, data_bytes=data_bytes)


NO_FILE = {
    "empty": (b"", "it ends after 0 bytes"),
    "short": (preamble()[:23], "it ends after 23 bytes"),
    "a web page": (b"<!doctype html><html></html>", "it begins with b'<!do'"),
    "an older format": (preamble(magic=b"GGJT"), "it begins with b'GGJT'"),
    "version 1": (preamble(version=1), "its version is 1; 2 and 3 are known"),
    "version 4": (preamble(version=4), "its version is 4; 2 and 3 are known"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "it is big-endian"),
    "2^63 tensors": (preamble(tensors=2**63), "it announces 9223372036854775808 tensors"),
    "2^64 - 1 entries": (preamble(metadata=2**64 - 1), "it announces 0 tensors and 18446744073709551615 metadata"),
    "one tensor too many": (preamble(tensors=1) + bytes(23), "it announces 1 tensors"),
    "more entries than are read": (preamble(metadata=8193) + bytes(MIB), "at most 65536 and 8192 are read"),
    "more tensors than are read": (preamble(tensors=65537) + bytes(2 * MIB), "at most 65536 and 8192 are read"),
    "zeros": (preamble(tensors=9, metadata=9) + bytes(1000), "metadata '' (near byte 32) has an empty key"),
}
METADATA = {
    "a key of 2^60 bytes": (described(u64(2**60) + bytes(99)), "metadata entry 1 (near byte 77) has a name of 115"),
    "a key of 2000 bytes": (described(entry("k" * 2000, 1)), "has a name of 2000 bytes; 1024 are allowed"),
    "a key that ends with the file": (
        gguf([ARCHITECTURE, u64(200)]),
        "entry 1 (near byte 77) needs 277 bytes of the file, but it has 96",
    ),
    "a key that is not UTF-8": (described(entry(b"k\xff", 1)), r"has a key that is not UTF-8: 'k�'"),
    "an empty key": (described(entry("", 1)), "has an empty key"),
    "a key twice": (described(entry("k", 1), entry("k", 2)), " appears twice"),
    "a type 13": (described(entry("k", b"", 13)), "has values of the unknown type 13"),
    "a type 2^31": (described(entry("k", b"", 2**31)), "has values of the unknown type 2147483648"),
    "a text of 2^64 - 1 bytes": (
        described(entry("k", u64(2**64 - 1), 8)),
        "metadata 'k' (near byte 96) needs 18446744073709551",
    ),
    "a text beyond the end": (described(entry("k", u64(50), 8)), "bytes of the file, but it has 96"),
    "an array of 2^60 numbers": (described(entry("k", array(10, 2**60, b""))), "needs 9223372036854775"),
    "an array of 2^61 texts": (described(entry("k", array(8, 2**61, b""))), "needs 18446744073709551"),
    "an array of type 13": (described(entry("k", array(13, 1, b""))), "has values of the unknown type 13"),
    "an array of arrays": (described(entry("k", array(9, 1, array(0, 1, b"\0")))), "is an array of arrays"),
    "a number as architecture": (
        gguf([entry("general.architecture", 1)]),
        "'general.architecture' (near byte 56) is no string",
    ),
    "a text as context length": (
        described(entry("llama.context_length", "8k")),
        "_length' (near byte 101) is no integer",
    ),
    "a bool as block count": (described(entry("llama.block_count", b"\1", 7)), "is no integer"),
    "a negative block count": (described(entry("llama.block_count", b"\xff" * 4, 5)), "is negative: -1"),
    "heads of 4097 layers": (
        described(entry("llama.attention.head_count_kv", array(4, 4097, bytes(4097 * 4)))),
        "describes 4097 layers; 4096 are allowed",
    ),
    "heads as floats": (described(entry("llama.attention.head_count", array(6, 1, bytes(4)))), "is no integer"),
    "heads as text": (described(entry("llama.attention.head_count", "9")), "is no integer"),
    "a text as tokens": (described(entry("tokenizer.ggml.tokens", "a")), "is no array of strings"),
    "numbers as tokens": (described(entry("tokenizer.ggml.tokens", array(4, 1, u32(1)))), "is no array of strings"),
    "templates as array": (described(entry("tokenizer.chat_template", array(8, 0, b""))), "is no string"),
    "no architecture": (gguf([entry("general.name", "n")]), "it names no architecture"),
    "an empty architecture": (gguf([entry("general.architecture", "")]), "it names no architecture"),
    "no architecture in a first part": (gguf([entry("split.no", u16(0), 2)]), "it names no architecture"),
    "part 3 of 2": (described(entry("split.no", 2), entry("split.count", 2)), "is 2, but there are 2 parts"),
    "an alignment of 0": (described(entry("general.alignment", 0)), "is 0, which is no power of two up to 1048576"),
    "an alignment of 48": (described(entry("general.alignment", 48)), "is 48, which is no power of two"),
    "an alignment of 2^31": (described(entry("general.alignment", 2**31)), "is 2147483648, which is no power"),
    "an alignment as text": (described(entry("general.alignment", "32")), "is no integer"),
}
TENSORS = {
    "a name of 64 bytes": (weighed(tensor("n" * 64, [8])), "tensor 0 (near byte 77) has a name of 64 bytes; 63"),
    "a name twice": (weighed(tensor("a", [8]), tensor("a", [8], 0, 32)), "tensor 'a' (near byte 111) appears twice"),
    "99 dimensions": (weighed(tensor("a", [1] * 99)), "tensor 'a' (near byte 82) has 99 dimensions; 4 are allowed"),
    "2^63 elements": (weighed(tensor("a", [2**63])), "has more elements than 64 bits can count: 9223372036854775808"),
    "2^64 elements": (weighed(tensor("a", [2**32, 2**32])), "can count: 4294967296 × 4294967296"),
    "an overflow that a zero hides": (weighed(tensor("a", [2**40, 2**40, 0])), "has more elements than"),
    "half a block": (weighed(tensor("a", [48], 2)), "has rows of 48 elements, which are no whole blocks of 32"),
    "a scalar of blocks": (weighed(tensor("a", [], 2)), "has rows of 1 elements"),
    "an odd offset": (weighed(tensor("a", [1], 0, 4)), "begins at 4 of the data, which is no multiple of 32"),
    "a gap before the first": (weighed(tensor("a", [1], 0, 32)), "begins at 32 of the data instead of at 0"),
    "a gap": (weighed(tensor("a", [1]), tensor("b", [1], 0, 64)), "'b' (near byte 135) begins at 64 of the data inst"),
    "an overlap": (weighed(tensor("a", [9]), tensor("b", [1], 0, 32)), "begins at 32 of the data instead of at 64"),
    "the largest offset": (weighed(tensor("a", [1], 0, 2**64 - 32)), "begins at 18446744073709551584 of the data inst"),
    "an offset beyond the end behind an unknown type": (
        weighed(tensor("a", [1], 99), tensor("b", [1], 0, 96)),
        "it is cut short: tensor 'b' needs 260 bytes of it, but it has 224",
    ),
    "an unknown type beyond the end": (
        weighed(tensor("a", [1], 99), tensor("b", [1], 99, 2**63)),
        "needs 9223372036854775",
    ),
    "more data than there is": (weighed(tensor("a", [17])), "tensor 'a' needs 196 bytes of it, but it has 192"),
    "no data at all": (weighed(tensor("a", [1]), data_bytes=0), "tensor 'a' needs 132 bytes of it, but it has 128"),
    "a table that ends with the file": (gguf([ARCHITECTURE], [text("a" * 24)]), "needs "),
}
MALFORMED = NO_FILE | METADATA | TENSORS


@pytest.mark.parametrize(("content", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_with_place_and_reason(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(PreflightFailed) as raised:
        check_gguf(tmp_path / "m.gguf", model_id="o/n")
    assert raised.value.kind is PreflightKind.INVALID_GGUF
    assert problem in raised.value.message
    assert raised.value.message.isprintable()


def test_the_data_may_end_where_the_last_tensor_does() -> None:
    assert parse(weighed(tensor("a", [16]))).tensor_bytes == 64
    assert parse(SMALL).tensor_count == 3


def test_a_file_that_is_cut_anywhere_is_refused() -> None:
    for size_bytes in range(len(SMALL)):
        with pytest.raises(MalformedGguf, match=f"(but it has|ends after|but has) {size_bytes}"):
            parse(SMALL[:size_bytes])


def test_a_model_that_is_cut_at_any_page_of_its_data_is_refused_with_the_numbers(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.gguf", "full")
    content = (tmp_path / "m.gguf").read_bytes()
    data_offset = parse(content).data_offset
    for size_bytes in range(data_offset, len(content) - 32, 4096):
        with pytest.raises(MalformedGguf, match=rf"it is cut short: .* needs \d+ bytes of it, but it has {size_bytes}"):
            parse(content[:size_bytes])
    for size_bytes in range(0, data_offset, 251):
        with pytest.raises(MalformedGguf):
            parse(content[:size_bytes])


def flipped(content: bytes, bits: Sequence[int]) -> bytes:
    changed = bytearray(content)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=examples(1000))
@given(bits=st.lists(st.integers(0, len(SMALL) * 8 - 1), min_size=1, max_size=8), cut=st.integers(0, 64))
def test_flipped_bits_give_a_header_or_the_one_error(bits: Sequence[int], cut: int) -> None:
    content = flipped(SMALL, bits)[: len(SMALL) - cut]
    found = header_or_problem(content)
    if isinstance(found, str):
        assert found.isprintable()
    else:
        assert not found.tensor_count or found.data_offset <= len(content)
        assert (found.kv_bytes_per_token or 0) >= 0


@given(head=st.binary(max_size=200), tensors=st.integers(0, 4), metadata=st.integers(0, 4))
def test_random_bytes_behind_a_good_beginning_give_a_header_or_the_one_error(
    head: bytes, tensors: int, metadata: int
) -> None:
    found = header_or_problem(preamble(tensors=tensors, metadata=metadata) + head + bytes(200))
    assert isinstance(found, GgufHeader) or found.isprintable()


HOSTILE = {
    "a name of 20 MiB": described(entry("general.name", "n" * (20 * MIB))),
    "a template of 20 MiB": described(entry("tokenizer.chat_template", "t" * (20 * MIB))),
    "20 MiB of numbers": described(entry("k", array(0, 20 * MIB, bytes(20 * MIB)))),
    "a key of 20 MiB": described(entry("k" * (20 * MIB), 1)),
    "heads of millions of layers": described(
        entry("llama.attention.head_count", array(0, 20 * MIB, bytes(20 * MIB))),
    ),
    "8000 long keys": described(*(entry(f"{number:0512}", 0) for number in range(8000))),
    "20 MiB of data": weighed(tensor("a", [5 * MIB]), data_bytes=20 * MIB),
    "data that is not there": weighed(tensor("a", [2**60])),
    "counts of data that is not there": preamble(tensors=2**40, metadata=2**40) + bytes(20 * MIB),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_no_file_takes_much_memory_or_is_read_beyond_its_header(content: bytes) -> None:
    file = Bytes(content)
    tracemalloc.start()
    try:
        parse_gguf_header(file, len(content))
    except MalformedGguf:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 8 * MIB
    assert file.bytes_read < 6 * MIB


def test_a_vocabulary_is_read_once_in_pieces() -> None:
    content = described(entry("tokenizer.ggml.tokens", array(8, 100_000, text("token") * 100_000)))
    file = Bytes(content)
    assert parse_gguf_header(file, len(content)).vocabulary_size == 100_000
    assert file.bytes_read < 1.2 * len(content)


@pytest.mark.parametrize("kind", [0, 8])
def test_a_header_of_gigabytes_is_refused_before_it_is_read(kind: int) -> None:
    start = described(entry("k", array(kind, 2**28, b"")))
    file = Bytes(start.ljust(1 << 16, b"\0"))
    with pytest.raises(MalformedGguf, match=r"metadata 'k' .* a header may have 134217728 bytes"):
        parse_gguf_header(lambda offset, count: file(offset, min(count, 1 << 16 - offset)), 2**40)
    assert file.bytes_read <= 1 << 16
