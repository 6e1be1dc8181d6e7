"""Models of every memory kind in a few hundred kilobytes: random weights under a real vocabulary and chat template.

They say nothing sensible, but they load, tokenize and decode in libllama like the real ones, whose memory they share:

full        llama    attention over everything
windowed    cohere2  three layers of four see only the last `WINDOW` tokens
recurrent   mamba    one state per sequence, which cannot be cut
hybrid      jamba    attention layers beside recurrent ones

`OTHERS` are of no further kind of memory: models that do not chat, or that libllama computes wrongly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

__all__ = ("KINDS", "OTHERS", "WINDOW", "byte_alphabet", "write_synthetic")

WINDOW: Final = 32
"""Tokens that a layer of the windowed model sees."""

_LAYERS: Final = 4
_LAYERS_OF: Final = {"gemma-embedding": 6}
"""Each sixth layer of this kind sees the whole text; libllama aborts on a model that has none of them."""
_WIDTH: Final = 64
_FEED_FORWARD: Final = 128
_HEADS: Final = 4
_KV_HEADS: Final = 2
_HEAD_WIDTH: Final = _WIDTH // _HEADS
_CONTEXT: Final = 8192

_INNER: Final = 2 * _WIDTH  # the only ratio that libllama builds
_CONVOLUTION: Final = 4
_STATE: Final = 16
_STEP_RANK: Final = 4

_SPECIAL: Final = ("<|begin|>", "<|im_start|>", "<|im_end|>")
_WORDS: Final = ("the", "and", "you")
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_Array = npt.NDArray[np.float32]
_Tensors = Iterator[tuple[str, _Array]]


class _Weights:
    """Random tensors, the same ones for every file; shapes are numpy's, which are GGUF's backwards."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(20)

    def matrix(self, rows: int, columns: int, *, gain: float = 1.0) -> _Array:
        """Keeps the size of what it is multiplied with."""
        return self._random.normal(0.0, gain / columns**0.5, (rows, columns)).astype(np.float32)

    def around(self, mean: float, *shape: int) -> _Array:
        return self._random.normal(mean, 0.1, shape).astype(np.float32)


def write_synthetic(
    path: Path,
    kind: str,
    *,
    tensors_per_part: int = 0,
    describe: "_Describe" = lambda _writer: None,
    markers: Sequence[str] = (),
    template: str | None = None,
) -> None:
    """Write the model of `kind`, one of `KINDS` or `OTHERS`, to `path`. Always the same bytes.

    With `tensors_per_part` it is split into files of so many tensors, which have the usual names. `describe` adds
    metadata, `markers` are further control tokens, `template` is a chat template of its own.
    """
    architecture, metadata, layers = {**KINDS, **OTHERS}[kind]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_part)
    writer.add_name(f"synthetic {kind}")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS_OF.get(kind, _LAYERS))
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    metadata(writer)
    describe(writer)
    special = (*_SPECIAL, *markers)
    _add_vocabulary(writer, special, template or _TEMPLATE)
    weights = _Weights()
    # Also the output matrix: its scale makes scores that differ by a few units.
    writer.add_tensor("token_embd.weight", weights.matrix(_vocabulary_size(special), _WIDTH, gain=3.0))
    for name, array in _outer(weights, architecture):
        writer.add_tensor(name, array)
    for number in range(_LAYERS_OF.get(kind, _LAYERS)):
        for name, array in layers(weights, number):
            writer.add_tensor(f"blk.{number}.{name}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, special: Sequence[str], template: str) -> None:
    """Every byte is a token, so any text can be read; a few words show that merges work."""
    alphabet = byte_alphabet()
    merges, pieces = [], list[str]()
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            merges.append(f"{word[: end - 1]} {word[end - 1]}")
            pieces.append(word[:end])
    tokens = [*special, *alphabet, *pieces]
    kinds = [gguf.TokenType.CONTROL] * len(special) + [gguf.TokenType.NORMAL] * (len(alphabet) + len(pieces))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)


def byte_alphabet() -> list[str]:
    """One printable character per byte, as byte-level vocabularies spell them: itself, or one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _vocabulary_size(special: Sequence[str]) -> int:
    return len(special) + 256 + sum(len(word) - 1 for word in _WORDS)


def _describe_attention(writer: gguf.GGUFWriter, *, kv_heads: int | list[int] = _KV_HEADS) -> None:
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(_HEAD_WIDTH)


def _describe_recurrence(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(_CONVOLUTION)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_STEP_RANK)


def _describe_windowed(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer)
    writer.add_sliding_window(WINDOW)
    writer.add_logit_scale(1.0)


def _describe_recurrent(writer: gguf.GGUFWriter) -> None:
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    _describe_recurrence(writer)


def _is_attention(layer: int) -> bool:
    """In the hybrid model, every second layer."""
    return layer % 2 == 1


def _describe_hybrid(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer, kv_heads=[_KV_HEADS if _is_attention(layer) else 0 for layer in range(_LAYERS)])
    _describe_recurrence(writer)


def _norm(weights: _Weights, name: str) -> _Tensors:
    yield f"{name}_norm.weight", weights.around(1.0, _WIDTH)


def _attention(weights: _Weights) -> _Tensors:
    kv_width = _KV_HEADS * _HEAD_WIDTH
    yield "attn_q.weight", weights.matrix(_WIDTH, _WIDTH, gain=2.0)
    yield "attn_k.weight", weights.matrix(kv_width, _WIDTH, gain=2.0)
    yield "attn_v.weight", weights.matrix(kv_width, _WIDTH)
    yield "attn_output.weight", weights.matrix(_WIDTH, _WIDTH)


def _feed_forward(weights: _Weights) -> _Tensors:
    yield "ffn_gate.weight", weights.matrix(_FEED_FORWARD, _WIDTH)
    yield "ffn_up.weight", weights.matrix(_FEED_FORWARD, _WIDTH)
    yield "ffn_down.weight", weights.matrix(_WIDTH, _FEED_FORWARD)


def _recurrence(weights: _Weights) -> _Tensors:
    yield "ssm_in.weight", weights.matrix(2 * _INNER, _WIDTH)
    yield "ssm_conv1d.weight", weights.matrix(_INNER, _CONVOLUTION)
    yield "ssm_conv1d.bias", weights.around(0.0, _INNER)
    yield "ssm_x.weight", weights.matrix(_STEP_RANK + 2 * _STATE, _INNER)
    yield "ssm_dt.weight", weights.matrix(_INNER, _STEP_RANK)
    yield "ssm_dt.bias", weights.around(-2.0, _INNER)  # small steps, so that the state reaches far back
    yield "ssm_a", weights.around(-1.0, _INNER, _STATE)
    yield "ssm_d", weights.around(1.0, _INNER)
    yield "ssm_out.weight", weights.matrix(_WIDTH, _INNER)


def _recurrence_norms(weights: _Weights) -> _Tensors:
    yield "ssm_dt_norm.weight", weights.around(1.0, _STEP_RANK)
    yield "ssm_b_norm.weight", weights.around(1.0, _STATE)
    yield "ssm_c_norm.weight", weights.around(1.0, _STATE)


def _full_layer(weights: _Weights, _layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    yield from _attention(weights)
    yield from _norm(weights, "ffn")
    yield from _feed_forward(weights)


def _windowed_layer(weights: _Weights, _layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    yield from _attention(weights)
    yield from _feed_forward(weights)


def _recurrent_layer(weights: _Weights, _layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    yield from _recurrence(weights)


def _hybrid_layer(weights: _Weights, layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    if _is_attention(layer):
        yield from _attention(weights)
    else:
        yield from _recurrence(weights)
        yield from _recurrence_norms(weights)
    yield from _norm(weights, "ffn")
    yield from _feed_forward(weights)


def _outer(weights: _Weights, architecture: str) -> _Tensors:
    """The tensors that belong to no layer, beside the embeddings."""
    if architecture not in _WITHOUT_OUTPUT_NORM:
        yield "output_norm.weight", weights.around(1.0, _WIDTH)
    if architecture == "bert":
        yield "position_embd.weight", weights.matrix(_CONTEXT, _WIDTH)
        yield "token_embd_norm.bias", weights.around(0.0, _WIDTH)
    if architecture in {"bert", "modern-bert"}:
        yield "token_embd_norm.weight", weights.around(1.0, _WIDTH)


_WITHOUT_OUTPUT_NORM: Final = frozenset({"bert"})


def _describe_bert(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer, kv_heads=_HEADS)
    writer.add_causal_attention(False)
    writer.add_token_type_count(2)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def _bert_layer(weights: _Weights, _layer: int) -> _Tensors:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield f"{name}.weight", weights.matrix(_WIDTH, _WIDTH)
    for name in ("attn_output_norm", "layer_output_norm"):
        yield f"{name}.weight", weights.around(1.0, _WIDTH)
        yield f"{name}.bias", weights.around(0.0, _WIDTH)
    yield "ffn_up.weight", weights.matrix(_FEED_FORWARD, _WIDTH)
    yield "ffn_down.weight", weights.matrix(_WIDTH, _FEED_FORWARD)


def _describe_modern_bert(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer, kv_heads=_HEADS)
    writer.add_causal_attention(False)


def _modern_bert_layer(weights: _Weights, _layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    yield "attn_qkv.weight", weights.matrix(3 * _WIDTH, _WIDTH)
    yield "attn_output.weight", weights.matrix(_WIDTH, _WIDTH)
    yield from _norm(weights, "ffn")
    yield "ffn_up.weight", weights.matrix(2 * _FEED_FORWARD, _WIDTH)
    yield "ffn_down.weight", weights.matrix(_WIDTH, _FEED_FORWARD)


def _describe_gemma_embedding(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer)
    writer.add_key_length(_HEAD_WIDTH)
    writer.add_value_length(_HEAD_WIDTH)
    writer.add_sliding_window(WINDOW)


def _gemma_embedding_layer(weights: _Weights, layer: int) -> _Tensors:
    yield from _full_layer(weights, layer)
    for name in ("post_attention_norm", "post_ffw_norm"):
        yield f"{name}.weight", weights.around(1.0, _WIDTH)
    for name in ("attn_q_norm", "attn_k_norm"):
        yield f"{name}.weight", weights.around(1.0, _HEAD_WIDTH)


_PLAMO_STEP_WIDTH: Final = 64  # which libllama takes for granted


def _describe_plamo2(writer: gguf.GGUFWriter) -> None:
    _describe_hybrid(writer)
    writer.add_key_length(_HEAD_WIDTH)
    writer.add_value_length(_HEAD_WIDTH)
    writer.add_ssm_group_count(0)


def _plamo2_layer(weights: _Weights, layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    if _is_attention(layer):
        yield "attn_qkv.weight", weights.matrix((_HEADS + 2 * _KV_HEADS) * _HEAD_WIDTH, _WIDTH, gain=2.0)
        yield "attn_q_norm.weight", weights.around(1.0, _HEADS, _HEAD_WIDTH)
        yield "attn_k_norm.weight", weights.around(1.0, _KV_HEADS, _HEAD_WIDTH)
        yield "attn_output.weight", weights.matrix(_WIDTH, _WIDTH)
    else:
        yield "ssm_in.weight", weights.matrix(2 * _INNER, _WIDTH)
        yield "ssm_conv1d.weight", weights.matrix(_INNER, _CONVOLUTION)
        yield "ssm_x.weight", weights.matrix(_PLAMO_STEP_WIDTH + 2 * _STATE, _INNER)
        yield "ssm_dt.weight", weights.matrix(_STEP_RANK, _PLAMO_STEP_WIDTH)
        yield "ssm_dt.bias", weights.around(-2.0, _STEP_RANK)
        yield "ssm_a", weights.around(-1.0, _STEP_RANK)
        yield "ssm_d", weights.around(1.0, _STEP_RANK)
        yield "ssm_out.weight", weights.matrix(_WIDTH, _INNER)
        yield "ssm_dt_norm", weights.around(1.0, _PLAMO_STEP_WIDTH)
        yield "ssm_b_norm", weights.around(1.0, _STATE)
        yield "ssm_c_norm", weights.around(1.0, _STATE)
    yield "post_attention_norm", weights.around(1.0, _WIDTH)
    yield from _norm(weights, "ffn")
    yield "ffn_up.weight", weights.matrix(2 * _FEED_FORWARD, _WIDTH)
    yield "ffn_down.weight", weights.matrix(_WIDTH, _FEED_FORWARD)
    yield "post_ffw_norm", weights.around(1.0, _WIDTH)


def _describe_cogvlm(writer: gguf.GGUFWriter) -> None:
    _describe_attention(writer, kv_heads=_HEADS)


def _cogvlm_layer(weights: _Weights, _layer: int) -> _Tensors:
    yield from _norm(weights, "attn")
    yield from _norm(weights, "ffn")
    for prefix in ("", "vis_"):
        yield f"{prefix}attn_qkv.weight", weights.matrix(3 * _WIDTH, _WIDTH, gain=2.0)
        yield f"{prefix}attn_output.weight", weights.matrix(_WIDTH, _WIDTH)
        yield f"{prefix}gate.weight" if prefix else "ffn_gate.weight", weights.matrix(_FEED_FORWARD, _WIDTH)
        yield f"{prefix}up.weight" if prefix else "ffn_up.weight", weights.matrix(_FEED_FORWARD, _WIDTH)
        yield f"{prefix}down.weight" if prefix else "ffn_down.weight", weights.matrix(_WIDTH, _FEED_FORWARD)


_Describe = Callable[[gguf.GGUFWriter], None]
_Layer = Callable[[_Weights, int], _Tensors]

KINDS: Final[Mapping[str, tuple[str, _Describe, _Layer]]] = {
    "full": ("llama", _describe_attention, _full_layer),
    "windowed": ("cohere2", _describe_windowed, _windowed_layer),
    "recurrent": ("mamba", _describe_recurrent, _recurrent_layer),
    "hybrid": ("jamba", _describe_hybrid, _hybrid_layer),
}
"""Name of the kind to architecture, metadata and tensors of one layer."""

OTHERS: Final[Mapping[str, tuple[str, _Describe, _Layer]]] = {
    "bert": ("bert", _describe_bert, _bert_layer),
    "modern-bert": ("modern-bert", _describe_modern_bert, _modern_bert_layer),
    "gemma-embedding": ("gemma-embedding", _describe_gemma_embedding, _gemma_embedding_layer),
    "dream": ("dream", _describe_attention, _full_layer),
    "plamo2": ("plamo2", _describe_plamo2, _plamo2_layer),
    "cogvlm": ("cogvlm", _describe_cogvlm, _cogvlm_layer),
}
"""Like `KINDS`."""
