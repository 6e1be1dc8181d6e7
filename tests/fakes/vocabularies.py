"""Vocabularies with the control tokens that a test wants, loaded by libllama without any weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import gguf

from neuron_lib.llama.bindings import init_backend, lib, route_logs
from neuron_lib.llama.vocab import Vocab
from tests.fakes.synthetic_gguf import byte_alphabet

__all__ = ("open_vocabulary",)

_WORDS: Final = ("the", "and", "you")


@contextmanager
def open_vocabulary(
    path: Path,
    *,
    control: Sequence[str],
    user_defined: Sequence[str] = (),
    kind: Literal["bytes", "jina", "sentencepiece", "phi"] = "bytes",
) -> Iterator[Vocab]:
    """A vocabulary written to `path` in which `control` are control tokens; the first is BOS, the last EOS.

    `bytes` merges bytes as GPT-2 does; in `jina`, `<mask>` swallows the white space before it. `sentencepiece` puts a
    space before each text; in `phi`, most control tokens swallow the white space behind them.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("phi-3" if kind == "phi" else "vocabulary")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    if kind in {"bytes", "jina"}:
        _add_bytes(writer, control, user_defined, pre="smollm" if kind == "bytes" else "jina-v2-de")
    else:
        _add_sentencepiece(writer, control, user_defined)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(len(control) - 1)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    init_backend()
    route_logs(lambda _level, _text: None)
    params = lib.llama_model_default_params()
    params.vocab_only = True
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model, "libllama does not read this vocabulary"
    try:
        yield Vocab(lib.llama_model_get_vocab(model))
    finally:
        lib.llama_model_free(model)


def _add_bytes(writer: gguf.GGUFWriter, control: Sequence[str], user_defined: Sequence[str], *, pre: str) -> None:
    merges, pieces = [], list[str]()
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            merges.append(f"{word[: end - 1]} {word[end - 1]}")
            pieces.append(word[:end])
    plain = [*byte_alphabet(), *pieces]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    _add_tokens(writer, control, user_defined, plain, [gguf.TokenType.NORMAL] * len(plain))
    writer.add_token_merges(merges)


def _add_sentencepiece(writer: gguf.GGUFWriter, control: Sequence[str], user_defined: Sequence[str]) -> None:
    text = ["▁", *map(chr, range(33, 127)), *_WORDS, *(f"▁{word}" for word in _WORDS), "th", "an", "yo"]
    plain = [*(f"<0x{byte:02X}>" for byte in range(256)), *text]
    kinds = [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(text)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    _add_tokens(writer, control, user_defined, plain, kinds)
    writer.add_token_scores([0.0] * (len(control) + len(user_defined)) + [-float(n) for n in range(len(plain))])
    writer.add_add_space_prefix(True)


def _add_tokens(
    writer: gguf.GGUFWriter,
    control: Sequence[str],
    user_defined: Sequence[str],
    plain: Sequence[str],
    kinds: Sequence[gguf.TokenType],
) -> None:
    writer.add_token_list([*control, *user_defined, *plain])
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(control) + [gguf.TokenType.USER_DEFINED] * len(user_defined) + list(kinds)
    )
