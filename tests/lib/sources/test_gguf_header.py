"""What a GGUF file says about itself: real, synthetic, split and hand-made ones."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf as gguf_py
import numpy as np
import pytest
from msgspec.structs import replace

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.gguf_header import GgufHeader, check_gguf, parse_gguf_header, read_gguf_header
from neuron_lib.sources.gguf_types import FILE_TYPES, TENSOR_BLOCKS
from tests.fakes.gguf_bytes import array, entry, gguf, tensor, text, u16, u32
from tests.fakes.synthetic_gguf import KINDS, write_synthetic

ARCHITECTURE = entry("general.architecture", "llama")
PART = GgufHeader(version=3, alignment=32, data_offset=0, tensor_count=0, tensor_bytes=0, parameter_count=0)
GROUPED = replace(PART, block_count=30, embedding_length=576, head_count=9, head_count_kv=3)


def parse(content: bytes) -> GgufHeader:
    return parse_gguf_header(lambda offset, count: content[offset : offset + count], len(content))


def test_the_real_model_is_described_by_its_header(smollm2_path: Path) -> None:
    header = check_gguf(smollm2_path, model_id="o/n")
    assert header == GgufHeader(
        version=3,
        alignment=32,
        data_offset=1785664,
        tensor_count=272,
        tensor_bytes=96576768,
        parameter_count=134515008,
        architecture="llama",
        name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        size_label="135M",
        file_type="Q4_1",
        context_length=8192,
        embedding_length=576,
        block_count=30,
        head_count=9,
        head_count_kv=3,
        vocabulary_size=49152,
        has_chat_template=True,
    )
    assert header.data_offset + (header.tensor_bytes or 0) == smollm2_path.stat().st_size
    assert header.kv_bytes_per_token == 30 * 3 * 64 * 2 * 2


@pytest.mark.parametrize(
    ("kind", "heads", "kv_heads", "kv_bytes"),
    [
        ("full", 4, 2, 4 * 2 * 16 * 2 * 2),
        ("windowed", 4, 2, 4 * 2 * 16 * 2 * 2),
        ("recurrent", 0, None, 0),
        ("hybrid", 4, (0, 2, 0, 2), 2 * 2 * 16 * 2 * 2),
    ],
)
def test_every_memory_kind_is_described_like_the_format_s_own_library_does(
    tmp_path: Path, kind: str, heads: int, kv_heads: int | tuple[int, ...] | None, kv_bytes: int
) -> None:
    write_synthetic(tmp_path / "m.gguf", kind)
    header = read_gguf_header(tmp_path / "m.gguf")
    reader = gguf_py.GGUFReader(tmp_path / "m.gguf")
    assert (header.architecture, header.name) == (KINDS[kind][0], f"synthetic {kind}")
    assert (header.context_length, header.embedding_length, header.block_count) == (8192, 64, 4)
    assert (header.head_count, header.head_count_kv, header.kv_bytes_per_token) == (heads, kv_heads, kv_bytes)
    assert (header.data_offset, header.tensor_count) == (reader.data_offset, len(reader.tensors))
    assert header.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert header.parameter_count == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert header.vocabulary_size == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert header.has_chat_template


def test_every_part_of_a_split_model_passes_and_the_first_one_describes_it(tmp_path: Path) -> None:
    writer = gguf_py.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_context_length(4096)
    for number in range(5):
        writer.add_tensor(f"blk.{number}.weight", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = [check_gguf(path, model_id="o/n") for path in sorted(tmp_path.glob("m-*.gguf"))]
    assert [(part.split_no, part.split_count, part.tensor_count) for part in parts] == [(0, 3, 2), (1, 3, 2), (2, 3, 1)]
    assert [part.tensor_bytes for part in parts] == [512, 512, 256]
    assert [(part.architecture, part.context_length) for part in parts] == [("llama", 4096), (None, None), (None, None)]


def test_the_smallest_gguf_of_either_version_says_nothing_more_than_its_architecture() -> None:
    for version in (2, 3):
        expected = replace(PART, version=version, data_offset=96, architecture="llama")
        assert parse(gguf(version=version)) == expected


def test_all_keys_are_found_in_any_order_beside_keys_that_mean_nothing_here() -> None:
    header = parse(
        gguf(
            [
                entry("llama.attention.value_length", 24),
                entry("llama.attention.key_length", b"\x10\x00", 2),
                entry("qwen3.context_length", 7),
                entry("odd.float", bytes(8), 12),
                entry("odd.bool", b"\x02", 7),
                entry("odd.numbers", array(12, 3, bytes(24))),
                entry("odd.texts", array(8, 2, text("") + text("\0"))),
                entry("odd.empty", array(8, 0, b"")),
                entry("tokenizer.ggml.tokens", array(8, 3, text("a") * 3)),
                entry("general.alignment", 64),
                entry("general.file_type", 15),
                entry("split.no", u16(1), 2),
                entry("split.count", u16(2), 2),
                entry("llama.attention.kv_lora_rank", 512),
                ARCHITECTURE,
            ],
            [tensor("scalar", []), tensor("w", [256, 3], 14, 64)],
            alignment=64,
            data_bytes=64 + 630,
        )
    )
    assert (header.key_length, header.value_length, header.kv_lora_rank) == (16, 24, 512)
    assert (header.context_length, header.vocabulary_size, header.file_type) == (None, 3, "Q4_K_M")
    assert (header.split_no, header.split_count, header.alignment) == (1, 2, 64)
    assert (header.parameter_count, header.tensor_bytes, header.data_offset % 64) == (769, 4 + 630, 0)


def test_a_tensor_of_a_type_from_the_future_leaves_only_the_bytes_unknown() -> None:
    header = parse(gguf(tensors=[tensor("a", [8]), tensor("b", [7, 3], 999, 32)], data_bytes=40))
    assert (header.tensor_bytes, header.parameter_count) == (None, 29)
    assert parse(gguf([ARCHITECTURE, entry("general.file_type", 999)])).file_type is None


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (b"SmolLM2 \xc3\xa9\xe6\x97\xa5", "SmolLM2 é日"),
        (b"a\x1b[31mred\x1b[0m\r\nb\x00\x7f\xc2\x85", "a[31mred[0m b"),
        ("right\u202eto left".encode(), "rightto left"),
        (b"bad \xff\xfe bytes", "bad bytes"),
        (b"n" * 10_000_000, "n" * 128),
        ("é".encode() * 1000, "é" * 128),
        (b"", None),
        (b" \n\t\x00", None),
    ],
)
def test_a_text_is_fit_for_a_log_line(spelled: bytes, shown: str | None) -> None:
    assert parse(gguf([ARCHITECTURE, entry("general.name", text(spelled), 8)])).name == shown


def test_a_chat_template_is_present_unless_it_is_empty() -> None:
    for template, is_present in {"{{ messages }}": True, "  \n": False, "": False}.items():
        header = parse(gguf([ARCHITECTURE, entry("tokenizer.chat_template", template)]))
        assert header.has_chat_template is is_present
    assert not parse(gguf()).has_chat_template


@pytest.mark.parametrize(
    ("change", "kv_bytes"),
    [
        ({}, 30 * 3 * 128 * 2),
        ({"head_count_kv": None}, 30 * 9 * 128 * 2),
        ({"key_length": 192, "value_length": 128}, 30 * 3 * 320 * 2),
        ({"key_length": 192}, 30 * 3 * (192 + 64) * 2),
        ({"head_count_kv": (0, 8, 1), "block_count": 3}, 9 * 128 * 2),
        ({"head_count_kv": (3, 3)}, None),  # for 30 layers
        ({"head_count": (9, 12), "head_count_kv": None, "block_count": 2}, 21 * 128 * 2),
        ({"head_count": ()}, None),
        ({"head_count": 0, "head_count_kv": None}, 0),
        ({"head_count_kv": ()}, None),
        ({"block_count": 2**32 - 1}, (2**32 - 1) * 3 * 128 * 2),
        ({"block_count": None}, None),
        ({"embedding_length": None}, None),
        ({"embedding_length": None, "key_length": 64}, None),
        ({"head_count": None, "head_count_kv": None}, None),
        ({"kv_lora_rank": 512}, None),
    ],
)
def test_the_bytes_of_a_token_of_context_follow_from_the_header(
    change: Mapping[str, Any], kv_bytes: int | None
) -> None:
    assert replace(GROUPED, **change).kv_bytes_per_token == kv_bytes


def test_the_tables_agree_with_those_of_the_format_s_own_library() -> None:
    blocks = {int(kind): block for kind, block in gguf_py.GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert {kind: TENSOR_BLOCKS.get(kind) for kind in blocks} == blocks
    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf_py.LlamaFileType}
    del names[int(gguf_py.LlamaFileType.GUESSED)]
    assert {kind: FILE_TYPES.get(kind) for kind in names} == names


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "link", Path("/dev/zero"), tmp_path):
        with pytest.raises(PreflightFailed, match="not a regular file") as raised:
            check_gguf(path, model_id="o/n")
        assert raised.value.kind is PreflightKind.INVALID_GGUF


def test_a_link_to_a_gguf_is_followed_and_one_to_nothing_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf())
    for name, target in {"good": "m.gguf", "dangling": "absent", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    assert check_gguf(tmp_path / "good", model_id="o/n").architecture == "llama"
    for name in ("absent", "dangling", "loop"):
        with pytest.raises(PreflightFailed, match=f"{tmp_path}/{name}: ") as raised:
            check_gguf(tmp_path / name, model_id="o/n")
        assert raised.value.kind is PreflightKind.FILE_NOT_FOUND


def test_a_refusal_names_the_file_the_place_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([ARCHITECTURE, entry("llama.block_count", "30")]))
    with pytest.raises(PreflightFailed) as raised:
        check_gguf(path, model_id="o/n")
    assert (raised.value.kind, raised.value.model_id) == (PreflightKind.INVALID_GGUF, "o/n")
    expected = (
        f"{path} is no usable GGUF; fetch it again, or take another file: metadata 'llama.block_count' (near byte 98)"
        " is no integer"
    )
    assert raised.value.message == expected


def test_a_file_that_is_truncated_while_it_is_read_is_refused(tmp_path: Path) -> None:
    content = gguf([ARCHITECTURE, entry("llama.block_count", 30)])
    with pytest.raises(ValueError, match="became shorter meanwhile"):
        parse_gguf_header(lambda offset, count: content[offset : min(offset + count, 70)], len(content))
    assert u32(30) in content[70:]
