"""What a model says of the length of requests is never 0, and is what the engine is told with each request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuron_lib.admission import MINIMAL
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.llamacpp.limits import capacity_of, readable_tokens, request_limit, servable
from neuron_lib.llamacpp.submission import submission
from neuron_lib.modality import EMBEDDINGS
from neuron_lib.types import Complete, ModelLimit, SamplingParams, Servable

FACTS = ModelFacts(
    description="a model",
    size_bytes=1,
    native_context=4096,
    n_ctx=2048,
    kv_cells=4096,
    cell_bytes=1024,
    recommended=SamplingParams(),
    reasoning=None,
)


@pytest.mark.parametrize(
    ("facts", "most", "limit"),
    [
        (FACTS, 16384, ModelLimit(context=2048, input=2047, output=512)),
        (FACTS, 100, ModelLimit(context=2048, input=100, output=512)),
        (replace(FACTS, n_ctx=2), 16384, ModelLimit(context=2, input=1, output=2)),
        (replace(FACTS, n_ctx=64, capabilities=(EMBEDDINGS,)), 16384, ModelLimit(context=64, input=64, output=64)),
        (replace(FACTS, n_ctx=1), 16384, None),
    ],
)
def test_a_limit_is_never_zero_and_is_what_the_engine_is_told(
    facts: ModelFacts, most: int, limit: ModelLimit | None
) -> None:
    assert request_limit(facts, max_prompt_tokens=most, max_tokens=512) == limit
    told = submission(
        1,
        Complete(model_id="o/m", prompt="x"),
        facts=facts,
        defaults=SamplingConfig(max_tokens=512),
        max_prompt_tokens=most,
        cache_key="",
        seed=0,
    )
    assert told.limits.prompt_tokens == (0 if limit is None else limit.input)


@pytest.mark.parametrize(("asked", "reserved"), [(None, 300), (1000, 300), (20, 20)])
def test_no_more_of_a_reply_is_reserved_than_it_may_have(asked: int | None, reserved: int) -> None:
    told = submission(
        1,
        Complete(model_id="o/m", prompt="x", max_tokens=asked),
        facts=FACTS,
        defaults=SamplingConfig(max_tokens=512),
        max_prompt_tokens=100,
        kv_reply_tokens=300,
        cache_key="",
        seed=0,
    )
    assert told.limits.reserved_tokens == reserved


@pytest.mark.parametrize(
    ("facts", "standstill", "expected"),
    [
        (FACTS, None, None),
        (replace(FACTS, kv_cells=0), None, None),
        (FACTS, "no step for 100 s", "stalled"),
        (replace(FACTS, n_ctx=1), None, "context_length_exceeded"),
        (replace(FACTS, kv_cells=1), None, "prompt_too_long_for_vram"),
    ],
)
def test_a_model_is_servable_as_long_as_it_would_not_refuse_the_smallest_request_while_it_is_idle(
    facts: ModelFacts, standstill: str | None, expected: str | None
) -> None:
    limit = request_limit(facts, max_prompt_tokens=100, max_tokens=512)
    capacity = capacity_of(facts, limit=limit, seats=1)
    found = servable(capacity, standstill=standstill)
    if expected is None:
        assert found == Servable(ok=True)
        assert capacity.refusal(MINIMAL) is None
    else:
        assert (found.ok, found.reason) == (False, expected)
        assert found.detail


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


def test_a_slow_machine_has_a_shorter_context() -> None:
    facts = replace(FACTS, n_ctx=65536)
    limit = request_limit(facts, max_prompt_tokens=16384, max_tokens=8192, readable=5120)
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
    facts = replace(FACTS, n_ctx=n_ctx)
    readable = readable_tokens(prefill_tok_s=prefill_tok_s, target_s=target_s)
    limit = request_limit(facts, max_prompt_tokens=max_prompt_tokens, max_tokens=max_tokens, readable=readable)
    told = submission(
        1,
        Complete(model_id="o/m", prompt="x"),
        facts=facts,
        defaults=SamplingConfig(max_tokens=max_tokens),
        max_prompt_tokens=max_prompt_tokens,
        readable_tokens=readable,
        cache_key="",
        seed=0,
    )
    if limit is None:
        assert (n_ctx, told.limits.prompt_tokens) == (1, 0)
    else:
        assert limit.input is not None
        assert told.limits.prompt_tokens == limit.input
        assert 0 < limit.input < limit.context <= n_ctx
        assert 0 < limit.output <= limit.context
