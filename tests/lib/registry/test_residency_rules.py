"""What the tables of a configuration mean for what a host does by itself."""

import math

import pytest

from neuron_lib.config import Config, ModelEntry, ResidencyConfig
from neuron_lib.config.schema import HarnessEntry
from neuron_lib.registry.residency_rules import ModelRules, ResidencyRules
from neuron_lib.types import ModelSpec

DEFAULT = ModelSpec(model_id="hub:o/default", harness="one", quant="Q4_K_M", devices=(1,))
ENTRIES = (
    ModelEntry(id="o/entry", harness="two", devices=(2,), pin=True),
    ModelEntry(id="o/idle", idle_ttl_secs=600),
    ModelEntry(id="o/busy", idle_ttl_secs=0),
)


def config(**residency: object) -> Config:
    return Config(
        harnesses=(HarnessEntry("one"), HarnessEntry("two")),
        default_models=(DEFAULT,),
        models=ENTRIES,
        residency=ResidencyConfig(**residency),  # type: ignore[arg-type] # any of its fields
    )


def test_by_default_a_host_does_nothing_by_itself() -> None:
    rules = ResidencyRules.from_config(Config(default_models=(DEFAULT,)))
    assert rules.do_nothing
    assert rules.on_demand == ()


def test_configured_models_are_loaded_on_demand_by_their_own_spec_or_with_the_harness_of_their_entry() -> None:
    rules = ResidencyRules.from_config(config(on_demand=True))
    assert rules.loadable("o/default") == DEFAULT
    assert rules.loadable("o/entry") == ModelSpec(model_id="o/entry", harness="two", devices=(2,))
    assert rules.loadable("o/idle") == ModelSpec(model_id="o/idle")  # its files decide
    assert rules.loadable("o/other") is None


def test_a_model_on_demand_is_found_in_every_spelling_of_its_id() -> None:
    rules = ResidencyRules.from_config(config(on_demand=True))
    for asked in ("o/default", "hub:o/default", "o/default:q4_k_m", "hf.co/o/default", "o/default:latest"):
        assert rules.loadable(asked) == DEFAULT
    assert rules.loadable("o/default:Q8_0") is None


def test_a_host_without_harness_loads_no_entry_on_demand() -> None:
    assert ResidencyRules.from_config(Config(harnesses=(), models=ENTRIES)).on_demand == ()


def test_an_entry_of_a_model_takes_the_place_of_the_usual_rules() -> None:
    rules = ResidencyRules.from_config(config(idle_ttl_secs=60))
    of = {id_: rules.of(ModelSpec(model_id=id_, harness="one")) for id_ in ("o/entry", "o/idle", "o/busy", "o/x")}
    assert of == {
        "o/entry": ModelRules(is_pinned=True, idle_limit_s=60),
        "o/idle": ModelRules(idle_limit_s=600),
        "o/busy": ModelRules(),
        "o/x": ModelRules(idle_limit_s=60),
    }
    assert not rules.do_nothing


def test_models_exclude_each_other_in_every_spelling_of_their_ids() -> None:
    rules = ResidencyRules.from_config(config(exclusive=(("o/default", "o/entry"),)))
    specs = [DEFAULT, ModelSpec(model_id="hub:o/entry:Q8_0", harness="one"), ModelSpec(model_id="o/x", harness="one")]
    assert rules.house({}, specs).exclusive == (frozenset({"o/default", "o/entry:Q8_0"}),)


@pytest.mark.parametrize(
    ("usual_s", "keep_alive_s", "stayed_s", "expected"),
    [
        (None, None, 0.0, None),
        (60.0, None, 0.0, 60.0),
        (0.001, None, 0.0, 1.0),
        (60.0, math.inf, 0.0, None),
        (60.0, 300.0, 0.0, 300.0),
        (60.0, 0.0, 10.0, 20.0),
        (None, 0.0, 40.0, 0.0),
    ],
)
def test_what_a_request_asks_for_counts_before_the_rules_and_after_the_minimum_residence(
    usual_s: float | None, keep_alive_s: float | None, stayed_s: float, expected: float | None
) -> None:
    rules = ResidencyRules(makes_room=True, min_resident_s=30.0)
    limit_s = rules.idle_limit_s(ModelRules(idle_limit_s=usual_s), keep_alive_s=keep_alive_s, stayed_s=stayed_s)
    assert limit_s == expected
