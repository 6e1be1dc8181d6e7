"""What a model says of the length of requests is never 0, and is what the engine is told with each request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.llamacpp.limits import readable_tokens, request_limit
from neuron_lib.llamacpp.submission import submission
from neuron_lib.types import Complete, ModelLimit, SamplingParams

FACTS = ModelFacts(
    description="a model",
    size_bytes=1,
    native_context=131072,
    n_ctx=65536,
    recommended=SamplingParams(),
    reasoning=None,
)


@pytest.mark.parametrize(
    ("prefill_tok_s", "target_s", "tokens"),
    [
        (0.0, 120.0, None),  # not measured yet
        (800.0, 0.0, None),  # switched off
        (800.0, 120.0, 95232),  # 96000 in whole steps of 1024
        (100.0, 120.0, 11264),
        (34.2, 120.0, 4096),
        (0.001, 120.0, 4096),
    ],
)
def test_a_prompt_may_have_what_is_read_in_time(prefill_tok_s: float, target_s: float, tokens: int | None) -> None:
    assert readable_tokens(prefill_tok_s=prefill_tok_s, target_s=target_s) == tokens


def test_without_a_measurement_the_context_alone_limits() -> None:
    limit = request_limit(FACTS, max_prompt_tokens=1 << 20, max_tokens=8192)
    assert limit == ModelLimit(context=65536, input=65535, output=8192)


def test_a_slow_machine_has_a_shorter_context() -> None:
    limit = request_limit(FACTS, max_prompt_tokens=16384, max_tokens=8192, readable=5120)
    assert limit == ModelLimit(context=5120, input=5119, output=5120)


@given(
    n_ctx=st.integers(1, 1 << 24),
    max_prompt_tokens=st.integers(1, 1 << 24),
    max_tokens=st.integers(1, 1 << 24),
    prefill_tok_s=st.floats(0, 1e9),
    target_s=st.floats(0, 3600),
)
def test_what_is_advertised_is_what_a_request_gets(
    n_ctx: int, max_prompt_tokens: int, max_tokens: int, prefill_tok_s: float, target_s: float
) -> None:
    facts = replace(FACTS, n_ctx=n_ctx, capabilities=("embeddings",))
    readable = readable_tokens(prefill_tok_s=prefill_tok_s, target_s=target_s)
    limit = request_limit(facts, max_prompt_tokens=max_prompt_tokens, max_tokens=max_tokens, readable=readable)
    assert limit.input is not None
    assert 0 < limit.input <= limit.context <= n_ctx
    assert 0 < limit.output <= limit.context
    command = submission(
        1,
        Complete(model_id="org/name", prompt="text"),
        facts=facts,
        defaults=SamplingConfig(max_tokens=max_tokens),
        max_prompt_tokens=max_prompt_tokens,
        readable_tokens=readable,
        cache_key="",
        seed=1,
    )
    assert command.limits.prompt_tokens == limit.input
