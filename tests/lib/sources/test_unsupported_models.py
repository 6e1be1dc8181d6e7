"""A file that no engine can serve is refused from its header, before any weight is read."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind, cause_chain
from neuron_lib.sources.gguf_header import check_gguf, check_model, parse_gguf_header
from tests.fakes.gguf_bytes import entry, gguf, tensor

FALSE, TRUE, BOOL = b"\0", b"\1", 7

UNSUPPORTED = {
    "LoRA adapter": (
        {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora", "adapter.lora.alpha": 16},
        "it is a LoRA adapter for a model of the architecture llama",
    ),
    "projector": ({"general.type": "mmproj", "general.architecture": "clip"}, "mmproj"),
    "projector of an old converter": ({"general.architecture": "clip"}, "mmproj"),
    "importance matrix": ({"general.type": "imatrix", "imatrix.chunk_count": 3}, "it is an importance matrix"),
    "control vector": ({"general.architecture": "controlvector"}, "it is a control vector"),
    "T5": ({"general.type": "model", "general.architecture": "t5"}, "encoder-decoder"),
    "diffusion": ({"general.type": "model", "general.architecture": "llada"}, "diffusion"),
    "vocoder": ({"general.architecture": "wavtokenizer-dec"}, "vocoder"),
}


def write(folder: Path, metadata: dict[str, str | int]) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(gguf([entry(*item) for item in metadata.items()], [tensor("w", [8])], data_bytes=32))
    return path


@pytest.mark.parametrize(("metadata", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_the_refusal_is_one_sentence_that_says_what_the_file_is(
    tmp_path: Path, metadata: dict[str, str | int], words: str
) -> None:
    path = write(tmp_path, metadata)
    with pytest.raises(PreflightFailed) as raised:
        check_model([path], model_id="o/n")
    assert raised.value.kind is PreflightKind.UNSUPPORTED_MODEL
    assert cause_chain(raised.value) == raised.value.message
    assert raised.value.message.startswith(f"{path} cannot be served: it is ")
    assert words in raised.value.message
    assert check_gguf(path, model_id="o/n").capabilities == ()


@pytest.mark.parametrize(
    ("metadata", "capabilities"),
    [
        ([], ("text",)),
        ([entry("llama.pooling_type", 0)], ("text",)),
        ([entry("llama.pooling_type", 3)], ("embeddings",)),
        ([entry("llama.pooling_type", 4)], ("rerank",)),
        ([entry("llama.attention.causal", FALSE, BOOL)], ("embeddings",)),
        ([entry("llama.attention.causal", TRUE, BOOL)], ("text",)),
        ([entry("qwen3.pooling_type", 3)], ("text",)),  # of another architecture
    ],
)
def test_a_header_tells_what_the_model_can_do(metadata: Sequence[bytes], capabilities: tuple[str, ...]) -> None:
    content = gguf([entry("general.architecture", "llama"), entry("general.type", "model"), *metadata])
    header = parse_gguf_header(lambda offset, count: content[offset : offset + count], len(content))
    assert header.general_type is None
    assert header.capabilities == capabilities


def test_what_is_wrong_with_a_file_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "big") + bytes(16))
    with pytest.raises(PreflightFailed) as raised:
        check_model([path], model_id="o/n")
    assert (
        cause_chain(raised.value) == f"{path} is no usable GGUF; fetch it again, or take another file: it is big-endian"
    )
