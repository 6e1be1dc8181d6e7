import logging
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from neuron_lib.config import Config
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Device, Discovery, ModelSpec, RejectionEvent
from neuron_service import server
from tests.fakes.scripted_host import CPU_HOST, ScriptedHost, scripted_host, spec
from tests.fakes.wire_shapes import read_discovery, read_health

pytestmark = pytest.mark.anyio

DEFAULTS = (spec("org/a", harness="llamacpp"), spec("org/b", harness="llamacpp"))
REASON = "the driver does not match its library; reboot the host"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Discovery]:
    """The result of the look at the hardware, as a list of one."""
    findings = [CPU_HOST]

    async def discover(**_: object) -> Discovery:
        return findings[0]

    monkeypatch.setattr(server, "discover", discover)
    return findings


async def test_with_a_broken_driver_no_load_is_tried_and_every_default_model_says_why(found: list[Discovery]) -> None:
    found[0] = replace(CPU_HOST, cuda_unavailable_reason=REASON)
    config = Config(default_models=DEFAULTS)
    async with scripted_host(default_models=DEFAULTS, discovery=None) as host:
        await server._activate(host.real, config, {})
        activation = read_health((await host.client.get("/health")).body).activation
        assert read_discovery((await host.client.get("/discovery")).body).cuda_unavailable_reason == REASON
        await host.client.post("/models/load", {"model_id": "org/c"})
        told = [event for event in host.registry.recent_events() if isinstance(event, RejectionEvent)]
    assert [(event.what, event.model_id, event.reason) for event in told] == [
        ("load", model_id, REASON) for model_id in ("org/a", "org/b", "org/c")
    ]
    assert activation.state == "ready"
    assert [(failed.model_id, failed.error) for failed in activation.failed] == [("org/a", REASON), ("org/b", REASON)]


@pytest.mark.parametrize("default_models", [DEFAULTS, ()])
async def test_a_host_without_harnesses_fails_every_default_model_and_is_ready(
    found: list[Discovery], default_models: tuple[ModelSpec, ...], caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(harnesses=(), default_models=default_models)
    async with scripted_host(default_models=default_models, discovery=None) as host:
        await server._activate(host.real, config, {})
        activation = read_health((await host.client.get("/health")).body).activation
    assert activation.state == "ready"
    assert [failed.model_id for failed in activation.failed] == [spec.model_id for spec in default_models]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == len(default_models)


async def test_a_stop_during_start_up_loading_is_no_bug_and_leaves_no_failed_model(found: list[Discovery]) -> None:
    config = Config(default_models=DEFAULTS)
    async with scripted_host(default_models=DEFAULTS, discovery=None, harnesses=("llamacpp",)) as host:
        host.real.start_draining()
        await server._activate(host.real, config, {})
        activation = host.tracker.snapshot()
    assert (activation.state, activation.failed) == ("pre_warming", ())


async def test_candle_is_an_alias_of_the_harness_llamacpp(found: list[Discovery]) -> None:
    async with scripted_host(discovery=None, harnesses=("llamacpp",)) as host:
        await server._activate(host.real, Config(), {})
        assert host.registry.harness_names == ("scripted", "llamacpp")
        body = {"model_id": "no id", "harness": "candle"}
        assert "no id" in (await host.client.post("/models/load", body)).json()["error"]


# ------------------------------------------------------------------------------------------- hardware that is not seen

UNSEEN = replace(CPU_HOST, max_prompt_tokens=None)
GPU = Device(index=0, name="Card", vram_total_mb=8192, compute_capability="8.0")


class TestSlowHardware:
    """In virtual time, which only trio has."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": MockClock(autojump_threshold=0)}

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[Discovery]:
        """The results of the looks, in order. Each look takes 6 s. The last result is repeated."""
        findings = [UNSEEN]

        async def discover(**_: object) -> Discovery:
            await anyio.sleep(6)
            return findings.pop(0) if len(findings) > 1 else findings[0]

        monkeypatch.setattr(server, "discover", discover)
        return findings

    @staticmethod
    async def discovery(host: ScriptedHost) -> Any:
        return (await host.client.get("/discovery")).json()

    async def test_discovery_has_neither_devices_nor_max_prompt_tokens_until_the_devices_are_seen(
        self, looks: list[Discovery]
    ) -> None:
        looks[:] = [UNSEEN, UNSEEN, UNSEEN, replace(CPU_HOST, devices=(GPU,))]
        async with scripted_host(discovery=None) as host, anyio.create_task_group() as tasks:
            tasks.start_soon(server._activate, host.real, Config(), {})
            told: list[Any] = []
            while not told or "max_prompt_tokens" not in told[-1]:
                told.append(await self.discovery(host))
                assert anyio.current_time() < 1000, "nobody looks again"
                await anyio.sleep(10)
            assert len(told) > 2
            assert [entry["devices"] for entry in told[:-1]] == [[]] * (len(told) - 1)
            seen = read_discovery((await host.client.get("/discovery")).body)
            assert ([gpu.name for gpu in seen.devices], seen.max_prompt_tokens) == (["Card"], 16384)
            assert host.real.gpu_memory_mb() == (8192,)

    async def test_default_models_wait_for_a_second_look(self, looks: list[Discovery]) -> None:
        looks[:] = [UNSEEN, replace(CPU_HOST, devices=(GPU,))]
        specs = (spec("org/a"),)
        async with scripted_host(discovery=None, default_models=specs) as host:
            began_s = anyio.current_time()
            memory: list[tuple[int, ...]] = []
            host.harness.scripts["org/a"] = ScriptedModel()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server._activate, host.real, Config(default_models=specs), {})
                await host.tracker.wait_ready()
                memory.append(host.real.gpu_memory_mb())
            assert anyio.current_time() - began_s == pytest.approx(13)
            assert (memory, host.tracker.snapshot().completed) == ([(8192,)], ("org/a",))

    @pytest.mark.usefixtures("looks")
    async def test_hardware_that_is_never_seen_delays_loads_and_default_models_by_seconds_only(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        specs = (spec("org/a"),)
        async with (
            scripted_host(discovery=None, default_models=specs) as host,
            anyio.create_task_group() as tasks,
        ):
            began_s = anyio.current_time()
            tasks.start_soon(server._activate, host.real, Config(default_models=specs), {})
            reply = await host.client.post("/models/load", {"model_id": "org/b", "harness": "scripted"})
            assert reply.status == 200
            await host.tracker.wait_ready()
            assert anyio.current_time() - began_s == pytest.approx(server._HARDWARE_PATIENCE_S)
            assert "max_prompt_tokens" not in await self.discovery(host)
            tasks.cancel_scope.cancel()
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "no GPU has been seen after 20 s, models load without"
        ]

    async def test_a_driver_that_turns_out_to_be_broken_stops_later_loads(self, looks: list[Discovery]) -> None:
        looks[:] = [UNSEEN] * 5 + [replace(CPU_HOST, cuda_unavailable_reason=REASON)]
        async with scripted_host(discovery=None) as host, anyio.create_task_group() as tasks:
            tasks.start_soon(server._activate, host.real, Config(), {})
            await anyio.sleep(600)
            reply = await host.client.post("/models/load", {"model_id": "org/b", "harness": "scripted"})
            assert (reply.status, reply.json()["code"]) == (503, "cuda_unavailable")

    @pytest.mark.usefixtures("looks")
    async def test_a_stop_before_the_hardware_was_seen_ends_the_wait(self) -> None:
        specs = (spec("org/a"),)
        async with scripted_host(discovery=None, default_models=specs) as host, anyio.create_task_group() as tasks:
            tasks.start_soon(server._activate, host.real, Config(default_models=specs), {})
            await anyio.sleep(1)
            host.real.start_draining()
            await anyio.sleep(100)
            assert (host.harness.log, host.tracker.snapshot().failed) == ([], ())
            tasks.cancel_scope.cancel()
