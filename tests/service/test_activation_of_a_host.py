import logging

import pytest
from msgspec.structs import replace

from neuron_lib.config import Config
from neuron_lib.types import Discovery, ModelSpec
from neuron_service import server
from tests.fakes.scripted_host import CPU_HOST, scripted_host, spec
from tests.fakes.wire_shapes import read_discovery, read_health

pytestmark = pytest.mark.anyio

DEFAULTS = (spec("org/a", harness="llamacpp"), spec("org/b", harness="llamacpp"))
REASON = "the driver does not match its library; reboot the host"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Discovery]:
    """What the look at the hardware finds, one entry."""
    findings = [CPU_HOST]

    async def discover(**_: object) -> Discovery:
        return findings[0]

    monkeypatch.setattr(server, "discover", discover)
    return findings


async def test_with_a_broken_driver_no_load_is_tried_and_every_default_model_says_why(found: list[Discovery]) -> None:
    found[0] = replace(CPU_HOST, cuda_unavailable_reason=REASON)
    config = Config(default_models=DEFAULTS)
    async with scripted_host(default_models=DEFAULTS, discovery=None) as host:
        await server._activate(host.node, config, {})
        activation = read_health((await host.client.get("/health")).body).activation
        assert read_discovery((await host.client.get("/discovery")).body).cuda_unavailable_reason == REASON
    assert activation.state == "ready"
    assert [(failed.model_id, failed.error) for failed in activation.failed] == [("org/a", REASON), ("org/b", REASON)]


@pytest.mark.parametrize("default_models", [DEFAULTS, ()])
async def test_a_host_without_harnesses_fails_every_default_model_and_is_ready(
    found: list[Discovery], default_models: tuple[ModelSpec, ...], caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(harnesses=(), default_models=default_models)
    async with scripted_host(default_models=default_models, discovery=None) as host:
        await server._activate(host.node, config, {})
        activation = read_health((await host.client.get("/health")).body).activation
    assert activation.state == "ready"
    assert [failed.model_id for failed in activation.failed] == [spec.model_id for spec in default_models]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == len(default_models)


async def test_a_stop_in_the_middle_of_it_is_no_bug_and_leaves_no_failed_model(found: list[Discovery]) -> None:
    config = Config(default_models=DEFAULTS)
    async with scripted_host(default_models=DEFAULTS, discovery=None, harnesses=("llamacpp",)) as host:
        host.node.start_draining()
        await server._activate(host.node, config, {})
        activation = host.tracker.snapshot()
    assert (activation.state, activation.failed) == ("pre_warming", ())


async def test_the_name_of_the_other_engine_finds_ours(found: list[Discovery]) -> None:
    async with scripted_host(discovery=None, harnesses=("llamacpp",)) as host:
        await server._activate(host.node, Config(), {})
        assert host.registry.harness_names == ("scripted", "llamacpp")
        body = {"model_id": "no id", "harness": "candle"}
        assert "no id" in (await host.client.post("/models/load", body)).json()["error"]
