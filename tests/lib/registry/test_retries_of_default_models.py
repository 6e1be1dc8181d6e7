"""Start-up loading over ten minutes of a silent source; the time is virtual, so these run on trio alone."""

from contextlib import AbstractAsyncContextManager

import anyio
import pytest
from trio.testing import MockClock

from neuron_lib import ActivationTracker, ModelSpec, Registry, load_default_models
from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.harness import LoadedModel, ProgressReporter
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import ActivationState, DeferredLoad
from tests.fakes.registry_callers import Caller
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

SILENT = SourceUnavailable("the hub is silent", model_id="o/a")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, MockClock]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Timetable:
    """A harness that fails each load of an id with its next error, then with its last one again, and notes when.

    None as an error loads the model.
    """

    name = "scripted"

    def __init__(self, errors: dict[str, list[NeuronError | None]], tracker: ActivationTracker) -> None:
        self.errors = errors
        self.tracker = tracker
        self.started_s = anyio.current_time()
        self.attempts: list[tuple[int, str]] = []

    def open(
        self, spec: ModelSpec, *, model_id: str, report: ProgressReporter
    ) -> AbstractAsyncContextManager[LoadedModel]:
        self.attempts.append((round(anyio.current_time() - self.started_s), model_id))
        errors = self.errors[model_id]
        script = ScriptedModel(load_error=errors.pop(0) if len(errors) > 1 else errors[0])
        return ScriptedHarness({model_id: script}).open(spec, model_id=model_id, report=report)

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:  # noqa: ARG002 - as the protocol has it
        return None


async def activate(**errors: list[NeuronError | None]) -> Timetable:
    """Load `o/NAME` for every name, to the end."""
    specs = [ModelSpec(model_id=f"o/{name}", harness="scripted") for name in errors]
    tracker = ActivationTracker(specs)
    harness = Timetable({f"o/{name}": script for name, script in errors.items()}, tracker)
    async with Registry([harness]) as registry:
        await load_default_models(registry, specs, tracker)
    return harness


async def test_a_silent_source_is_asked_seven_times_in_ten_minutes_and_then_the_model_has_failed() -> None:
    host = await activate(a=[SILENT])
    assert [at for at, _ in host.attempts] == [0, 10, 30, 70, 150, 310, 610]
    end = host.tracker.snapshot()
    assert [failed.model_id for failed in end.failed] == ["o/a"]
    assert end.failed[0].error == "the hub is silent"
    assert end.state is ActivationState.READY


async def test_later_models_get_their_turn_before_a_deferred_one_gets_another() -> None:
    host = await activate(a=[SILENT, None], b=[None], c=[SILENT, SILENT, None])
    assert host.attempts == [(0, "o/a"), (0, "o/b"), (0, "o/c"), (10, "o/a"), (10, "o/c"), (30, "o/c")]
    assert host.tracker.snapshot().completed == ("o/b", "o/a", "o/c")


@pytest.mark.parametrize(
    "kind", [PreflightKind.REPO_NOT_FOUND, PreflightKind.GATED_REPO, PreflightKind.QUANT_NOT_FOUND]
)
async def test_what_no_time_will_mend_is_tried_once(kind: PreflightKind) -> None:
    host = await activate(a=[PreflightFailed(kind, "no", model_id="o/a")], b=[None])
    assert host.attempts == [(0, "o/a"), (0, "o/b")]
    assert [failed.model_id for failed in host.tracker.snapshot().failed] == ["o/a"]


async def test_a_deferred_model_is_pending_and_the_host_still_pre_warming_while_it_waits() -> None:
    specs = [ModelSpec(model_id="o/a", harness="scripted")]
    tracker = ActivationTracker(specs, clock=anyio.current_time)
    harness = Timetable({"o/a": [SILENT, None]}, tracker)
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(load_default_models, registry, specs, tracker)
        await anyio.sleep(5)
        waiting = tracker.snapshot()
        assert (waiting.state, waiting.pending, waiting.in_progress) == (ActivationState.PRE_WARMING, ("o/a",), None)
        assert waiting.deferred == (
            DeferredLoad(model_id="o/a", error="the hub is silent", attempt=1, next_try_secs=5),
        )
        await tracker.wait_ready()
        assert tracker.snapshot().completed == ("o/a",)


async def test_the_time_to_the_next_try_of_a_model_counts_from_the_end_of_the_others_turns() -> None:
    specs = [ModelSpec(model_id=f"o/{name}", harness="scripted") for name in "ab"]
    tracker = ActivationTracker(specs, clock=anyio.current_time)
    gate = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(load_error=SILENT), "o/b": ScriptedModel(may_load=gate)})
    seen: list[tuple[str | None, int]] = []

    def look() -> None:
        (entry,) = tracker.snapshot().deferred or ()
        seen.append((tracker.snapshot().in_progress, entry.next_try_secs))

    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(load_default_models, registry, specs, tracker)
        await anyio.sleep(8)
        look()
        await anyio.sleep(92)
        look()
        gate.set()
        await anyio.sleep(3)
        look()
        tasks.cancel_scope.cancel()
    assert seen == [("o/b", 2), ("o/b", 0), (None, 7)]


async def test_too_many_loads_at_once_are_a_passing_reason() -> None:
    specs = [ModelSpec(model_id="o/a", harness="scripted")]
    tracker = ActivationTracker(specs)
    harness = ScriptedHarness({"o/other": ScriptedModel(may_load=anyio.Event())})
    async with Registry([harness], max_loads=1) as registry, anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(registry).load, "o/other")
        await let_others_run()
        tasks.start_soon(load_default_models, registry, specs, tracker)
        await anyio.sleep(5)
        assert tracker.snapshot().pending == ("o/a",)
        await registry.unload("o/other")
        await tracker.wait_ready()
        assert tracker.snapshot().completed == ("o/a",)
