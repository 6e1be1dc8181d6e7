"""What a registry lists while its host stops, and when its models were loaded."""

import anyio
import pytest

from neuron_lib import ActivationTracker, ModelStatus, Registry
from neuron_lib.errors import ShuttingDown
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import reply_text, spec
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

# ------------------------------------------------------------------------------------------------ the end of a host


async def test_from_the_close_of_admission_to_the_end_every_model_that_served_is_listed_as_recovering() -> None:
    gates = {name: anyio.Event() for name in ("o/a", "o/b")}
    harness = ScriptedHarness({name: ScriptedModel(may_unload=gate) for name, gate in gates.items()})
    registry = Registry([harness])

    def listed() -> list[tuple[str, ModelStatus, object]]:
        return [(info.id, info.status, info.servable) for info in registry.list_models()]

    async with anyio.create_task_group() as tasks:
        async with registry:
            for name in gates:
                await registry.load(spec(name))
            loaded = dict(registry.loaded_unix_s())
            registry.close_admission()
            expected = [(name, ModelStatus.RECOVERING, None) for name in gates]
            assert listed() == expected
            last_answers = anyio.Event()

            async def watch() -> None:
                """While the models are unloaded, of which one is gone before the other."""
                await let_others_run()
                assert len(registry.unloading()) == 2
                gates["o/a"].set()
                await let_others_run()
                assert [leaving.model_id for leaving in registry.unloading()] == ["o/b"]
                assert listed() == expected
                assert [registry.endpoint(name) for name in gates] == [registry.endpoint_url] * 2
                assert dict(registry.loaded_unix_s()) == loaded
                last_answers.set()
                gates["o/b"].set()

            tasks.start_soon(watch)
        assert last_answers.is_set()
        assert registry.list_models() == ()


# ------------------------------------------------------------------------------------------- a stop that is announced


async def test_a_stop_that_is_announced_lists_no_model_as_loaded_and_still_takes_requests_to_those_that_serve() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec("o/a"))
        registry.announce_stop()
        assert [(info.id, info.status) for info in registry.list_models()] == [("o/a", ModelStatus.RECOVERING)]
        assert registry.endpoint("o/a") == registry.endpoint_url
        assert await reply_text(registry, "o/a")
        registry.close_admission()
        with pytest.raises(ShuttingDown):
            await reply_text(registry, "o/a")


async def test_a_stop_that_is_announced_cancels_loads_and_begins_none() -> None:
    script = ScriptedModel(may_load=anyio.Event())
    async with Registry([ScriptedHarness({"o/b": script})]) as registry:
        failures: list[type[Exception]] = []

        async def load(model_id: str) -> None:
            with pytest.raises(ShuttingDown) as failed:
                await registry.load(spec(model_id))
            failures.append(failed.type)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load, "o/b")
            await let_others_run()
            registry.announce_stop()
        await load("o/c")
        assert failures == [ShuttingDown, ShuttingDown]


async def test_a_request_to_a_model_that_does_not_serve_is_refused_as_soon_as_the_stop_is_announced() -> None:
    script = ScriptedModel(may_load=anyio.Event())
    specs = [spec("o/a"), spec("o/b")]
    rules = ResidencyRules(on_demand=(spec("o/c"),))
    async with Registry([ScriptedHarness({"o/a": script})], wait_for_load_s=1e6, residency=rules) as registry:
        registry.follow(ActivationTracker(specs))  # which will not hear of the end of these loads
        refused: list[str] = []

        async def ask(model_id: str) -> None:
            with pytest.raises(ShuttingDown):
                await reply_text(registry, model_id)
            refused.append(model_id)

        async with anyio.create_task_group() as tasks:
            for model_id in ("o/a", "o/b"):
                tasks.start_soon(ask, model_id)
            await let_others_run()
            registry.announce_stop()
        await ask("o/c")
        assert sorted(refused) == ["o/a", "o/b", "o/c"]


async def test_the_time_of_a_load_is_that_of_its_end_and_is_gone_with_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = ScriptedModel(may_load=anyio.Event())
    async with Registry([ScriptedHarness({"o/a": script})]) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(registry.load, spec())
        await let_others_run()
        assert dict(registry.loaded_unix_s()) == {}
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: 1_800_000_000.9)
            assert script.may_load is not None
            script.may_load.set()
            await let_others_run()
        assert dict(registry.loaded_unix_s()) == {"o/a": 1_800_000_000}
        await registry.unload("o/a")
        assert dict(registry.loaded_unix_s()) == {}
