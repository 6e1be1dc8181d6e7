"""The usage of a reply in the shape of OpenAI's APIs for chats and completions."""

from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import Usage

__all__ = ("OpenAiUsage", "openai_usage")


class _CachedTokens(Struct):
    cached_tokens: int


class _ReasoningTokens(Struct):
    reasoning_tokens: int


class _Timing(Struct):
    prefill_ms: int
    decode_ms: int
    prefill_tokens: int


class OpenAiUsage(Struct):
    """The tokens of a reply, with `helexa_timing` beside them, which the gateway reads."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens
    completion_tokens_details: _ReasoningTokens | UnsetType
    helexa_timing: _Timing


def openai_usage(usage: Usage) -> OpenAiUsage:
    """The usage in OpenAI's shape."""
    return OpenAiUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_CachedTokens(usage.cached_tokens),
        completion_tokens_details=_ReasoningTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        helexa_timing=_Timing(usage.prefill_ms, usage.decode_ms, usage.prompt_tokens - usage.cached_tokens),
    )
