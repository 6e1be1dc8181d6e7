"""What replies in OpenAI's shapes say of themselves beside their text: llama.cpp's timings, and who made the reply."""

from typing import Final

from msgspec import Struct

from neuron_lib import __version__
from neuron_lib.types import Usage

__all__ = ("SYSTEM_FINGERPRINT", "Timings", "timings_of")

SYSTEM_FINGERPRINT: Final = f"neuron-{__version__}"
"""The `system_fingerprint` of every reply. The same request may be answered differently if this is different."""


class Timings(Struct, frozen=True):
    """The times of one reply in llama.cpp's shape: milliseconds, and tokens a second. A rate without a time is 0.

    `cache_n` tokens of the prompt were not computed, `prompt_n` were. `predicted_n` tokens were generated.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


def timings_of(usage: Usage) -> Timings:
    """The timings of a finished reply."""
    computed = usage.prompt_tokens - usage.cached_tokens
    return Timings(
        usage.cached_tokens, *_rates(computed, usage.prefill_ms), *_rates(usage.completion_tokens, usage.decode_ms)
    )


def _rates(tokens: int, ms: int) -> tuple[int, float, float, float]:
    """The tokens, their time, the time of one of them, and how many there were in a second."""
    return tokens, float(ms), ms / tokens if tokens else 0.0, 1000 * tokens / ms if ms else 0.0
