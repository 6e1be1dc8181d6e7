"""Parameters of other servers that would change the reply and have no effect here. They are refused, never ignored."""

from collections.abc import Mapping
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from neuron_lib.wire.json_bounds import refusal

__all__ = ("Harmless", "decoder_with_refused", "refuse_unsupported")

_LONGEST: Final = 64
"""The most bytes of a value that is accepted. Every value in the table below is shorter."""

Harmless: TypeAlias = Mapping[str, tuple[object, ...]]
"""By name, the values that are accepted because they ask for what happens anyway. null and `[]` are always accepted."""

_WITHOUT_EFFECT: Final[Harmless] = {
    # OpenAI
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "modalities": (["text"],),
    "web_search_options": (),
    # vLLM
    "allowed_token_ids": (),
    "bad_words": (),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "echo": (False,),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "logits_processors": (),
    "prompt_logprobs": (False,),
    "repetition_detection": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "stop_token_ids": (),
    "structural_tag": (),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    # SGLang
    "custom_logit_processor": (),
    "ebnf": (),
    "lora_path": (),
    "no_stop_trim": (False,),
    "separate_reasoning": (True,),
    "stop_regex": (),
    # llama.cpp
    "dynatemp_range": (0,),
    "grammar_lazy": (False,),
    "lora": (),
    "min_keep": (0, 1),
    "mirostat": (0,),
    "n_indent": (0,),
    "n_probs": (0,),
    "post_sampling_probs": (False,),
    "reasoning_format": ("auto", "deepseek"),
    "response_fields": (),
    "samplers": (),
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
}
"""The parameters of chats and completions."""

_INSTEAD: Final = {
    "best_of": "; `n` gives several replies",
    "ebnf": "; `grammar` takes Lark's notation",
    "function_call": "; use `tools`",
    "functions": "; use `tools`",
    "n_probs": "; use `logprobs` and `top_logprobs`",
    "reasoning_format": '; "auto" is what happens, and the header x-include-thinking shows reasoning in the text',
}

_Body = TypeVar("_Body", bound=Struct)


def decoder_with_refused(body: type[_Body], harmless: Harmless = _WITHOUT_EFFECT) -> msgspec.json.Decoder[_Body]:
    """A decoder of `body` that also keeps the parameters of the table `harmless`, for `refuse_unsupported`."""
    fields = [(name, msgspec.Raw, msgspec.Raw(b"null")) for name in harmless]
    return msgspec.json.Decoder(msgspec.defstruct(body.__name__, fields, bases=(body,), kw_only=True))


def refuse_unsupported(
    body: Struct, harmless: Harmless = _WITHOUT_EFFECT, *, instead: Mapping[str, str] = _INSTEAD
) -> None:
    """Raise `InvalidRequest` if `body` has a parameter of the table `harmless` with a value that is not in the table.

    `body` was decoded by a decoder from `decoder_with_refused`, with the same table. `instead` is what to say of a
    parameter beside that it is not supported. The usual tables are those of texts that are written.
    """
    for name, values in harmless.items():
        text = bytes(getattr(body, name))
        if text != b"null" and (len(text) > _LONGEST or not _is_one_of(msgspec.json.decode(text), values)):
            raise refusal(name, f"this is not supported{instead.get(name, '')}")


def _is_one_of(value: object, harmless: tuple[object, ...]) -> bool:
    """Whether `value` is `[]` or in `harmless`. Unlike in Python, false is not 0."""
    return value == [] or any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in harmless)
