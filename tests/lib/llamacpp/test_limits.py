import pytest
from msgspec.structs import replace

from neuron_lib.admission import MINIMAL
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.llamacpp.limits import capacity_of, request_limit, servable
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
