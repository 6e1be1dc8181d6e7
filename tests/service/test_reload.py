from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from neuron_lib.config import Config, HarnessEntry, HttpConfig, ModelEntry, ResidencyConfig, TracingConfig
from neuron_lib.types import ModelSpec
from neuron_service.reload import plan_reload

A = ModelSpec(model_id="huggingface:org/a", harness="llamacpp")
B = ModelSpec(model_id="org/b", harness="llamacpp")
CURRENT = Config(default_models=(A,))


def with_tls(name: str = "cert") -> Config:
    return Config(tls_cert=f"/{name}.pem", tls_key=f"/{name}.key", tls_client_ca="/ca.pem")


EXCHANGED: dict[str, Any] = {
    "allowed_hosts": ("x",),
    "allowed_origins": ("https://x",),
    "body_budget_mb": 7,
    "drain_notice_secs": 1.0,
    "drain_timeout_secs": 1.0,
    "endpoint_url": "https://node",
    "harness": {"llamacpp": "a table"},
    "http": HttpConfig(model_aliases={"x": "org/a"}),
    "keys_file": Path("/keys"),
    "log_level": "debug",
    "models": (ModelEntry(id="org/c"),),
    "trusted_networks": (),
    "trusted_proxies": ("10.0.0.1",),
    "wait_for_load_secs": 1.0,
}
AT_START: dict[str, Any] = {
    "host": "::1",
    "port": 1,
    "socket_mode": "600",
    "log_format": "json",
    "tracing": TracingConfig(otlp_endpoint="http://c"),
    "residency": ResidencyConfig(on_demand=True),
    "harnesses": (HarnessEntry("other"),),
    "max_prompt_tokens": 99,
}
OWN_TESTS = {"default_models", "tls_cert", "tls_key", "tls_client_ca"}


def test_a_new_key_of_the_configuration_needs_a_place_in_these_tables() -> None:
    assert set(Config.__struct_fields__) == EXCHANGED.keys() | AT_START.keys() | OWN_TESTS


@pytest.mark.parametrize(("key", "value"), EXCHANGED.items())
def test_a_key_that_can_change_while_the_service_runs_is_in_force(key: str, value: Any) -> None:
    wanted = replace(CURRENT, **{key: value})
    plan = plan_reload(CURRENT, wanted)
    assert (plan.config, plan.added, plan.needs_restart) == (wanted, (), ())


@pytest.mark.parametrize(("key", "value"), AT_START.items())
def test_a_key_of_the_start_keeps_its_value_and_is_named(key: str, value: Any) -> None:
    plan = plan_reload(CURRENT, replace(CURRENT, **{key: value}))
    assert (plan.config, plan.needs_restart) == (CURRENT, (key,))


def test_other_certificates_are_in_force() -> None:
    plan = plan_reload(with_tls(), with_tls("new"))
    assert (plan.config, plan.needs_restart) == (with_tls("new"), ())


def test_to_begin_or_to_end_with_tls_takes_a_restart() -> None:
    assert plan_reload(CURRENT, replace(with_tls(), default_models=(A,))).needs_restart == ("tls_cert",)
    assert plan_reload(with_tls(), Config()).config == with_tls()


def test_a_default_model_that_is_new_is_added() -> None:
    plan = plan_reload(CURRENT, Config(default_models=(B, A)))
    assert (plan.added, plan.needs_restart) == ((B,), ())
    assert plan_reload(plan.config, Config(default_models=(B, A))).added == ()


def test_a_default_model_that_is_gone_or_changed_stays_as_it_is() -> None:
    assert plan_reload(CURRENT, Config()).config == CURRENT
    plan = plan_reload(CURRENT, Config(default_models=(replace(A, quant="Q8_0"),)))
    assert (plan.config, plan.added, plan.needs_restart) == (CURRENT, (), ("default_models of org/a",))
