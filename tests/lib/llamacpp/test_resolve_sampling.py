from typing import Any

import msgspec
import pytest

from neuron_lib.config import SamplingConfig
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.types import Sampling, SamplingParams

DEFAULTS = SamplingConfig(temperature=0.7, repetition_penalty=1.1, repeat_last_n=64)
NOTHING = SamplingParams()


def params(field: str, value: Any) -> SamplingParams:
    return msgspec.structs.replace(NOTHING, **{field: value})


def resolve(
    asked: SamplingParams = NOTHING, recommended: SamplingParams = NOTHING, defaults: SamplingConfig = DEFAULTS
) -> Sampling:
    return resolve_sampling(asked, recommended=recommended, defaults=defaults, fresh_seed=77)


def test_where_nobody_says_anything_the_defaults_hold() -> None:
    assert resolve() == Sampling(temperature=0.7, seed=77, repetition_penalty=1.1, repeat_last_n=64)


@pytest.mark.parametrize(
    ("field", "asked", "recommended"),
    [
        ("temperature", 0.3, 0.6),
        ("top_p", 0.5, 0.95),
        ("top_k", 10, 20),
        ("min_p", 0.1, 0.05),
        ("repetition_penalty", 1.3, 1.05),
        ("repeat_last_n", 16, 32),
        ("typical_p", 0.5, 0.9),
        ("top_n_sigma", 1.0, 2.0),
        ("frequency_penalty", 0.5, -0.5),
        ("presence_penalty", 0.5, -0.5),
        ("xtc_probability", 0.5, 0.3),
        ("xtc_threshold", 0.2, 0.3),
        ("dry_multiplier", 0.8, 0.5),
        ("dry_base", 2.0, 3.0),
        ("dry_allowed_length", 4, 5),
        ("dry_penalty_last_n", 64, 128),
        ("dry_sequence_breakers", ("a",), ("b",)),
    ],
)
def test_the_request_goes_before_the_model_and_the_model_before_the_configuration(
    field: str, asked: Any, recommended: Any
) -> None:
    advice = params(field, recommended)
    configured = msgspec.structs.replace(DEFAULTS, **{field: asked})
    assert getattr(resolve(defaults=configured), field) == asked
    assert getattr(resolve(recommended=advice, defaults=configured), field) == recommended
    assert getattr(resolve(params(field, asked), advice), field) == asked


@pytest.mark.parametrize(
    ("field", "asked"), [("logit_bias", {1: 2.0}), ("min_tokens", 3), ("ignore_eos", True), ("seed", 2**64 - 1)]
)
def test_what_only_a_request_can_ask_for_arrives(field: str, asked: Any) -> None:
    assert getattr(resolve(params(field, asked)), field) == asked


def test_everything_that_can_be_asked_for_is_settled() -> None:
    assert set(SamplingParams.__struct_fields__) == set(Sampling.__struct_fields__)
    assert set(SamplingConfig.__struct_fields__) - {"max_tokens"} < set(Sampling.__struct_fields__)


@pytest.mark.parametrize("field", ["top_p", "top_k", "min_p", "repeat_last_n", "frequency_penalty", "seed"])
def test_a_zero_that_was_asked_for_is_not_taken_for_silence(field: str) -> None:
    advice = SamplingParams(top_p=0.9, top_k=20, min_p=0.1, repeat_last_n=32)
    assert getattr(resolve(params(field, 0), advice), field) == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_keeps_the_default_penalty_unless_the_request_asks_for_none(temperature: float) -> None:
    greedy = SamplingParams(temperature=temperature)
    assert resolve(greedy).repetition_penalty == 1.1
    assert not resolve(msgspec.structs.replace(greedy, repetition_penalty=1.0)).has_penalties
