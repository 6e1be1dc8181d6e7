"""Parameters of other servers that would change the reply and have no effect here. They are refused, never ignored."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from neuron_lib.wire.json_bounds import refusal

__all__ = ("WITHOUT_EFFECT", "Refused", "decoder_with_refused", "refuse_unsupported")

_LONGEST: Final = 64
"""The most bytes of a value that is accepted. Every value in the table below is shorter."""

Refused: TypeAlias = Mapping[str, tuple[object, ...]]
"""By name, the values that are accepted because they ask for what happens anyway. null and `[]` are always accepted."""

WITHOUT_EFFECT: Final[dict[str, tuple[object, ...]]] = {
    # OpenAI
    "audio": (),
    "modalities": (["text"],),
    "moderation": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM
    "add_special_tokens": (False,),
    "allowed_token_ids": (),
    "bad_words": (),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "echo": (False,),
    "ec_transfer_params": ({},),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": ({},),
    "logits_processors": (),
    "logprob_token_ids": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": (False,),
    "repetition_detection": (),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_token_offsets": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
    # SGLang
    "custom_logit_processor": (),
    "ebnf": (),
    "lora_path": (),
    "no_stop_trim": (False,),
    "separate_reasoning": (True,),
    "stop_regex": (),
    # llama.cpp
    "adaptive_target": (-1,),
    "dynatemp_range": (0,),
    "grammar_lazy": (False,),
    "lora": (),
    "min_keep": (0, 1),
    "mirostat": (0,),
    "n_cmpl": (1,),
    "n_indent": (0,),
    "n_probs": (0,),
    "parse_tool_calls": (True,),
    "post_sampling_probs": (False,),
    "reasoning_format": ("auto", "deepseek"),
    "reasoning_in_content": (False,),
    "response_fields": (),
    "return_tokens": (False,),
    "samplers": (),
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
}
"""The parameters of chats and completions."""

_NO_OTHERS: Final[Refused] = MappingProxyType({})

_INSTEAD: Final = {
    "best_of": "; `n` gives several replies",
    "n_cmpl": "; `n` gives several replies",
    "cache_salt": "; `prompt_cache.isolate_principals` in the configuration keeps accounts apart",
    "ebnf": "; `grammar` takes Lark's notation and GBNF",
    "n_probs": "; use `logprobs`",
    "reasoning_format": '; "auto" is what happens, and the header x-include-thinking shows reasoning in the text',
}

_Body = TypeVar("_Body", bound=Struct)


def decoder_with_refused(
    body: type[_Body], table: Refused = WITHOUT_EFFECT, *, also: Refused = _NO_OTHERS
) -> msgspec.json.Decoder[_Body]:
    """A decoder of `body` that also keeps the parameters of `table` and of `also`, for `refuse_unsupported`.

    A parameter that is a field of `body`, with a type of its own, is left to `body`.
    """
    own = frozenset(body.__struct_fields__)
    fields = [(name, msgspec.Raw, msgspec.Raw(b"null")) for name in (*table, *also) if name not in own]
    return msgspec.json.Decoder(msgspec.defstruct(body.__name__, fields, bases=(body,), kw_only=True))


def refuse_unsupported(
    body: Struct,
    table: Refused = WITHOUT_EFFECT,
    *,
    also: Refused = _NO_OTHERS,
    instead: Mapping[str, str] = _INSTEAD,
) -> None:
    """Raise `InvalidRequest` if `body` has a parameter of a table with a value that is not accepted.

    `body` was decoded by a decoder from `decoder_with_refused` with the same `table`, whose default is that of chats,
    and the same `also`, the further table of an API. `instead` has what to say of a parameter beside that.
    """
    for name, harmless in {**table, **also}.items():
        value = getattr(body, name)
        if not isinstance(value, msgspec.Raw):
            continue  # a field of the body itself
        text = bytes(value)
        if text != b"null" and (len(text) > _LONGEST or not _is_one_of(msgspec.json.decode(text), harmless)):
            raise refusal(name, f"this is not supported{instead.get(name, '')}")


def _is_one_of(value: object, harmless: tuple[object, ...]) -> bool:
    """Whether `value` is `[]` or in `harmless`. Unlike in Python, false is not 0."""
    return value == [] or any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in harmless)
