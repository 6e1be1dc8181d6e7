import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest

from neuron_lib import (
    ActivationTracker,
    AlreadyLoaded,
    LoadFailed,
    ModelSpec,
    Registry,
    ShuttingDown,
    SourceUnavailable,
    load_default_models,
)
from neuron_lib.registry.startup import RETRY_DELAYS_S
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import ActivationState, FailedLoad
from tests.fakes.log_lines import said
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


def spec(model_id: str, *, harness: str = "scripted", quant: str | None = None) -> ModelSpec:
    return ModelSpec(model_id=model_id, harness=harness, quant=quant)


def failure_with_causes() -> LoadFailed:
    error = LoadFailed("cannot read the weights")
    error.__cause__ = OSError(5, "Input/output error")
    return error


@dataclass
class Preload:
    """One run of `load_default_models` over scripts, and what is left of it."""

    specs: Sequence[ModelSpec]
    scripts: dict[str, ScriptedModel] = field(default_factory=dict)
    retry_delays_s: Sequence[float] = ()

    def __post_init__(self) -> None:
        self.harness = ScriptedHarness(self.scripts)
        self.tracker = ActivationTracker(self.specs)
        self.registry = Registry([self.harness])

    async def run(self) -> None:
        await load_default_models(self.registry, self.specs, self.tracker, retry_delays_s=self.retry_delays_s)

    @property
    def failed(self) -> tuple[FailedLoad, ...]:
        return self.tracker.snapshot().failed

    @property
    def completed(self) -> tuple[str, ...]:
        return self.tracker.snapshot().completed

    @property
    def is_ready(self) -> bool:
        return self.tracker.snapshot().state is ActivationState.READY


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [said(record) for record in caplog.records if record.levelno == logging.WARNING]


async def test_models_load_strictly_in_order_one_at_a_time() -> None:
    preload = Preload([spec("o/c"), spec("o/a"), spec("o/b")])
    async with preload.registry:
        await preload.run()
        assert preload.harness.log == ["open o/c", "loaded o/c", "open o/a", "loaded o/a", "open o/b", "loaded o/b"]
    assert preload.is_ready
    assert preload.completed == ("o/c", "o/a", "o/b")


async def test_the_tracker_shows_the_load_that_runs() -> None:
    may_load = anyio.Event()
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(may_load=may_load)})
    async with preload.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(preload.run)
        await let_others_run()
        snapshot = preload.tracker.snapshot()
        assert (snapshot.pending, snapshot.in_progress) == (("o/b",), "o/a")
        may_load.set()


async def test_no_default_models_means_ready_and_not_one_log_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="neuron_lib")
    preload = Preload([])
    async with preload.registry:
        await preload.run()
    assert preload.is_ready
    assert caplog.records == []


async def test_a_success_is_logged_with_its_model_and_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="neuron_lib.registry.startup")
    preload = Preload([spec("o/a")])
    async with preload.registry:
        await preload.run()
    assert [said(record) for record in caplog.records] == ["loading default models", "loaded default model"]
    start, end = caplog.records
    assert vars(start)["count"] == 1
    assert vars(end)["model_id"] == "o/a"
    assert vars(end)["elapsed_ms"] >= 0


async def test_a_failure_is_recorded_with_all_its_causes_and_the_next_model_still_loads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(load_error=failure_with_causes())})
    async with preload.registry:
        await preload.run()
    reason = "cannot read the weights: OSError: [Errno 5] Input/output error"
    assert preload.failed == (FailedLoad(model_id="o/a", error=reason),)
    assert preload.completed == ("o/b",)
    assert preload.is_ready
    assert warnings_in(caplog) == [f"failed to load default model, continuing: {reason}"]


async def test_a_harness_with_a_bug_is_survived() -> None:
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(load_error=ZeroDivisionError("oops"))})
    async with preload.registry:
        await preload.run()
    assert preload.failed == (
        FailedLoad(model_id="o/a", error="harness 'scripted' failed with a bug: ZeroDivisionError: oops"),
    )
    assert preload.completed == ("o/b",)


async def test_an_unknown_harness_fails_that_entry_only() -> None:
    preload = Preload([spec("o/a", harness="vllm"), spec("o/b")])
    async with preload.registry:
        await preload.run()
    assert preload.failed == (FailedLoad(model_id="o/a", error="unknown harness 'vllm'; registered: scripted"),)
    assert preload.completed == ("o/b",)


async def test_when_every_model_fails_the_host_is_ready_and_says_why() -> None:
    preload = Preload(
        [spec("o/a"), spec("o/b")],
        {
            "o/a": ScriptedModel(load_error=failure_with_causes()),
            "o/b": ScriptedModel(load_error=LoadFailed("too big")),
        },
    )
    async with preload.registry:
        await preload.run()
    assert preload.is_ready
    assert preload.failed == (
        FailedLoad(model_id="o/a", error="cannot read the weights: OSError: [Errno 5] Input/output error"),
        FailedLoad(model_id="o/b", error="too big"),
    )


async def test_a_model_that_is_resident_already_counts_as_completed(caplog: pytest.LogCaptureFixture) -> None:
    preload = Preload([spec("o/a"), spec("o/b")])
    async with preload.registry:
        await preload.registry.load(spec("o/a"))
        await preload.run()
    assert preload.completed == ("o/a", "o/b")
    assert preload.failed == ()
    assert warnings_in(caplog) == []


async def test_a_model_that_is_resident_under_another_id_counts_as_completed() -> None:
    preload = Preload([spec("o/a:Q4_K_M")])
    async with preload.registry:
        await preload.registry.load(spec("o/a", quant="q4km"))
        await preload.run()
        assert preload.completed == ("o/a:Q4_K_M",)
        assert preload.is_ready
        assert [info.id for info in preload.registry.list_models()] == ["o/a"]


async def test_a_load_that_somebody_else_started_is_waited_for() -> None:
    may_load = anyio.Event()
    preload = Preload([spec("o/a")], {"o/a": ScriptedModel(may_load=may_load)})
    async with preload.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(preload.registry.load, spec("o/a"))
        await let_others_run()
        tasks.start_soon(preload.run)
        await let_others_run()
        assert not preload.completed
        may_load.set()
        await preload.tracker.wait_ready()
        assert preload.completed == ("o/a",)
        assert preload.harness.log.count("open o/a") == 1


async def test_an_id_that_is_listed_twice_is_loaded_once_as_its_first_entry_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    preload = Preload([spec("o/a", quant="Q4_K_M"), spec("o/b"), spec("helexa:o/a", harness="vllm", quant="Q8_0")])
    async with preload.registry:
        await preload.run()
        assert preload.harness.log == ["open o/a", "loaded o/a", "open o/b", "loaded o/b"]
    assert preload.completed == ("o/a", "o/b")
    assert preload.is_ready
    assert warnings_in(caplog) == ["default model is listed twice, its first entry counts"]


async def test_completed_ids_are_the_ones_a_chat_can_use() -> None:
    preload = Preload([spec("helexa:o/a")])
    async with preload.registry:
        await preload.run()
        assert preload.completed == tuple(info.id for info in preload.registry.list_models())


async def test_a_silent_source_gets_another_turn_after_the_other_models(caplog: pytest.LogCaptureFixture) -> None:
    flaky = ScriptedModel(load_error=SourceUnavailable("the hub is silent", model_id="o/a"))
    other = ScriptedModel(may_load=anyio.Event())
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": flaky, "o/b": other}, retry_delays_s=(0, 0))
    async with preload.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(preload.run)
        await let_others_run()
        snapshot = preload.tracker.snapshot()
        assert (snapshot.pending, snapshot.in_progress, snapshot.failed) == (("o/a",), "o/b", ())
        flaky.load_error = None
        assert other.may_load is not None
        other.may_load.set()
        await preload.tracker.wait_ready()
        assert preload.completed == ("o/b", "o/a")
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert said(warning) == "source of default model unavailable, will retry: the hub is silent"
    assert (vars(warning)["attempt"], vars(warning)["retry_in_s"]) == (1, 0)


async def test_a_source_that_stays_silent_fails_after_the_last_turn() -> None:
    silent = ScriptedModel(load_error=SourceUnavailable("the hub is silent", model_id="o/a"))
    preload = Preload([spec("o/a")], {"o/a": silent}, retry_delays_s=(0, 0))
    async with preload.registry:
        await preload.run()
    assert preload.harness.log.count("open o/a") == 3
    assert preload.failed == (FailedLoad(model_id="o/a", error="the hub is silent"),)
    assert preload.is_ready


async def test_other_failures_get_no_second_turn() -> None:
    preload = Preload([spec("o/a")], {"o/a": ScriptedModel(load_error=LoadFailed("no"))}, retry_delays_s=(0, 0))
    async with preload.registry:
        await preload.run()
    assert preload.harness.log.count("open o/a") == 1


async def test_a_model_that_is_unloaded_while_it_loads_counts_as_failed_and_the_next_one_loads() -> None:
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(may_load=anyio.Event())})
    async with preload.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(preload.run)
        await let_others_run()
        await preload.registry.unload("o/a")
        await preload.tracker.wait_ready()
    assert preload.failed == (FailedLoad(model_id="o/a", error="the load of 'o/a' was cancelled"),)
    assert preload.completed == ("o/b",)


async def test_cancelling_it_does_not_stop_the_load_that_runs() -> None:
    may_load = anyio.Event()
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(may_load=may_load)})
    async with preload.registry:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(preload.run)
            await let_others_run()
            tasks.cancel_scope.cancel()
        may_load.set()
        with pytest.raises(AlreadyLoaded):
            await preload.registry.load(spec("o/a"))
        assert "open o/b" not in preload.harness.log


async def test_a_host_that_shuts_down_has_no_failed_models_and_is_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    preload = Preload([spec("o/a"), spec("o/b")], {"o/a": ScriptedModel(may_load=anyio.Event())})

    async def stop() -> None:
        await let_others_run()
        preload.registry.close_admission()

    async with preload.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        with pytest.raises(ShuttingDown):
            await preload.run()
    snapshot = preload.tracker.snapshot()
    assert (snapshot.in_progress, snapshot.pending, snapshot.failed) == ("o/a", ("o/b",), ())
    assert not preload.is_ready
    assert warnings_in(caplog) == []


def test_the_pauses_before_a_retry_are_those_of_the_contract() -> None:
    assert RETRY_DELAYS_S == (10, 20, 40, 80, 160, 300)
