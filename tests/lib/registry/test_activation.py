from collections.abc import Callable
from functools import partial

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import UNSET
from msgspec.structs import replace

from neuron_lib import ActivationSnapshot, ActivationTracker, ModelSpec
from neuron_lib.types import ActivationState, DeferredLoad, FailedLoad
from tests.fakes.turns import let_others_run

IDS = tuple(f"o/{letter}" for letter in "abcd")
READY, PRE_WARMING = ActivationState.READY, ActivationState.PRE_WARMING


def tracker_of(*model_ids: str) -> ActivationTracker:
    return ActivationTracker([ModelSpec(model_id=model_id, harness="scripted") for model_id in model_ids])


def test_without_default_models_a_host_is_ready_from_the_start() -> None:
    assert tracker_of().snapshot() == ActivationSnapshot(state=READY)


def test_with_default_models_all_are_pending_in_their_order_at_the_start() -> None:
    assert tracker_of("o/b", "o/a").snapshot() == ActivationSnapshot(state=PRE_WARMING, pending=("o/b", "o/a"))


def test_an_id_that_is_listed_twice_counts_once() -> None:
    assert tracker_of("o/a", "o/b", "o/a").snapshot().pending == ("o/a", "o/b")


def test_ids_are_shown_without_their_scheme() -> None:
    assert tracker_of("helexa:o/a", "o/a").snapshot().pending == ("o/a",)


def test_every_step_of_a_load_is_seen() -> None:
    tracker = tracker_of("o/a", "o/b", "o/c")
    tracker.start_loading("o/a")
    assert tracker.snapshot() == ActivationSnapshot(state=PRE_WARMING, pending=("o/b", "o/c"), in_progress="o/a")
    tracker.complete_loading("o/a")
    tracker.start_loading("o/b")
    tracker.fail_loading("o/b", "no such file")
    assert tracker.snapshot() == ActivationSnapshot(
        state=PRE_WARMING,
        pending=("o/c",),
        completed=("o/a",),
        failed=(FailedLoad(model_id="o/b", error="no such file"),),
    )


def test_settled_ids_are_listed_in_the_order_in_which_they_settled() -> None:
    tracker = tracker_of("o/a", "o/b")
    tracker.complete_loading("o/b")
    tracker.complete_loading("o/a")
    assert tracker.snapshot().completed == ("o/b", "o/a")


def test_a_deferred_id_waits_behind_the_others() -> None:
    tracker = tracker_of("o/a", "o/b")
    tracker.start_loading("o/a")
    tracker.defer_loading("o/a")
    assert tracker.snapshot() == ActivationSnapshot(state=PRE_WARMING, pending=("o/b", "o/a"))


def test_a_deferred_id_says_why_how_often_it_was_tried_and_when_it_is_tried_again() -> None:
    now_s = 100.0
    tracker = ActivationTracker([ModelSpec(model_id=name, harness="scripted") for name in IDS[:2]], clock=lambda: now_s)
    tracker.start_loading("o/a")
    tracker.defer_loading("o/a", "the hub is silent", attempt=2, retry_in_s=20.0)
    entry = DeferredLoad(model_id="o/a", error="the hub is silent", attempt=2, next_try_secs=20)
    assert tracker.snapshot().deferred == (entry,)
    now_s = 107.5
    assert tracker.deferral("o/a") == replace(entry, next_try_secs=13)
    tracker.pause_until_retry(20.0)
    assert tracker.deferral("o/a") == replace(entry, next_try_secs=20)
    now_s = 200.0
    assert tracker.deferral("o/a") == replace(entry, next_try_secs=0)
    assert tracker.deferral("o/b") is None
    now_s = 120.0
    tracker.start_loading("o/a")
    assert tracker.deferral("o/a") == replace(entry, next_try_secs=0)
    tracker.complete_loading("o/a")
    assert (tracker.deferral("o/a"), tracker.snapshot().deferred) == (None, UNSET)


def test_an_id_is_found_in_other_words_where_only_one_is_meant() -> None:
    specs = [
        ModelSpec(model_id="o/a:Q4_K_M", harness="scripted"),
        ModelSpec(model_id="o/b", harness="scripted", quant="Q8_0"),
        ModelSpec(model_id="o/c:Q4_K_M", harness="scripted"),
        ModelSpec(model_id="o/c:Q8_0", harness="scripted"),
    ]
    tracker = ActivationTracker(specs)
    asked = ["o/a:Q4_K_M", "hub:o/a:Q4_K_M", "o/a", "o/b:q8_0", "o/b:Q4_K_M", "o/c", "o/c:q8_0", "o/d"]
    found = ["o/a:Q4_K_M", "o/a:Q4_K_M", "o/a:Q4_K_M", "o/b", None, None, "o/c:Q8_0", None]
    assert [tracker.find(model_id) for model_id in asked] == found


def test_an_id_is_awaited_until_it_is_settled_and_a_failed_one_says_why() -> None:
    tracker = tracker_of("o/a", "o/b")
    tracker.start_loading("o/a")
    assert [tracker.awaits(name) for name in IDS[:3]] == [True, True, False]
    tracker.complete_loading("o/a")
    tracker.fail_loading("o/b", "broken")
    assert [tracker.awaits(name) for name in IDS[:3]] == [False, False, False]
    assert [tracker.failure(name) for name in IDS[:3]] == [None, "broken", None]
    assert [tracker.has_completed(name) for name in IDS[:3]] == [True, False, False]


def test_the_host_is_not_ready_before_it_is_told_so() -> None:
    tracker = tracker_of("o/a")
    tracker.complete_loading("o/a")
    assert tracker.snapshot().state is PRE_WARMING
    tracker.mark_ready()
    assert tracker.snapshot().state is READY


def test_ready_is_refused_while_an_id_is_not_settled() -> None:
    tracker = tracker_of("o/a", "o/b")
    tracker.start_loading("o/b")
    with pytest.raises(ValueError, match=r"o/a, o/b"):
        tracker.mark_ready()


def test_only_one_id_is_in_progress_at_a_time() -> None:
    tracker = tracker_of("o/a", "o/b")
    tracker.start_loading("o/a")
    with pytest.raises(ValueError, match=r"'o/b' while 'o/a'"):
        tracker.start_loading("o/b")


@pytest.mark.parametrize(
    "step",
    [
        lambda tracker: tracker.start_loading("o/a"),
        lambda tracker: tracker.complete_loading("o/a"),
        lambda tracker: tracker.fail_loading("o/a", "again"),
        lambda tracker: tracker.defer_loading("o/a"),
    ],
    ids=["start", "complete", "fail", "defer"],
)
def test_a_settled_id_stays_where_it_is(step: Callable[[ActivationTracker], None]) -> None:
    tracker = tracker_of("o/a")
    tracker.complete_loading("o/a")
    with pytest.raises(ValueError, match=r"'o/a' cannot become .*: it is completed"):
        step(tracker)
    assert tracker.snapshot().completed == ("o/a",)


def test_an_id_that_is_not_followed_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'o/x' is not one of"):
        tracker_of("o/a").complete_loading("o/x")


@pytest.mark.anyio
async def test_waiting_for_ready_ends_with_the_last_model() -> None:
    tracker = tracker_of("o/a")
    done = anyio.Event()

    async def wait() -> None:
        await tracker.wait_ready()
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tracker.fail_loading("o/a", "broken")
        await let_others_run()
        assert not done.is_set()
        tracker.mark_ready()
        await done.wait()


@pytest.mark.anyio
async def test_waiting_for_ready_returns_at_once_when_it_is() -> None:
    await tracker_of().wait_ready()


@pytest.mark.anyio
async def test_a_follower_sees_every_change_that_it_is_quick_enough_for_and_then_the_end() -> None:
    tracker = tracker_of("o/a")
    seen = []

    async def follow() -> None:
        async for snapshot in tracker.changes():
            seen.append(snapshot)  # noqa: PERF401 - a test looks at it meanwhile

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await let_others_run()
        tracker.start_loading("o/a")
        await let_others_run()
        tracker.complete_loading("o/a")
        tracker.mark_ready()
    assert seen == [
        ActivationSnapshot(state=PRE_WARMING, pending=("o/a",)),
        ActivationSnapshot(state=PRE_WARMING, in_progress="o/a"),
        ActivationSnapshot(state=READY, completed=("o/a",)),
    ]


@pytest.mark.anyio
async def test_a_change_between_two_looks_of_a_follower_is_not_missed() -> None:
    tracker = tracker_of("o/a")
    changes = tracker.changes()
    await anext(changes)
    tracker.complete_loading("o/a")  # while nobody waits
    assert (await anext(changes)).completed == ("o/a",)
    tracker.mark_ready()
    assert [snapshot.state async for snapshot in changes] == [READY]


class TrackerMachine(RuleBasedStateMachine):
    """Any calls in any order, right or wrong, against a model of four plain lists."""

    @initialize(ids=st.lists(st.sampled_from(IDS), max_size=6))
    def start(self, ids: list[str]) -> None:
        specs = [ModelSpec(model_id=model_id, harness="scripted") for model_id in ids]
        self.tracker = ActivationTracker(specs, clock=lambda: 0.0)
        self.pending = list(dict.fromkeys(ids))
        self.in_progress: list[str] = []
        self.completed: list[str] = []
        self.failed: list[str] = []
        self.deferred: list[str] = []
        self.is_ready = not ids

    def attempt(self, step: Callable[[], None], *, is_legal: bool) -> bool:
        before = self.tracker.snapshot()
        if is_legal:
            step()
        else:
            with pytest.raises(ValueError, match="o/"):
                step()
            assert self.tracker.snapshot() == before
        return is_legal

    @rule(model_id=st.sampled_from(IDS))
    def start_loading(self, model_id: str) -> None:
        is_legal = model_id in self.pending and not self.in_progress
        if self.attempt(lambda: self.tracker.start_loading(model_id), is_legal=is_legal):
            self.pending.remove(model_id)
            self.in_progress.append(model_id)

    @rule(model_id=st.sampled_from(IDS))
    def complete_loading(self, model_id: str) -> None:
        self.settle(model_id, lambda: self.tracker.complete_loading(model_id), self.completed)

    @rule(model_id=st.sampled_from(IDS))
    def fail_loading(self, model_id: str) -> None:
        self.settle(model_id, lambda: self.tracker.fail_loading(model_id, f"{model_id} broke"), self.failed)

    def settle(self, model_id: str, step: Callable[[], None], place: list[str]) -> None:
        source = self.pending if model_id in self.pending else self.in_progress
        if self.attempt(step, is_legal=model_id in source):
            source.remove(model_id)
            place.append(model_id)
            self.deferred = [name for name in self.deferred if name != model_id]

    @rule(model_id=st.sampled_from(IDS))
    def defer_loading(self, model_id: str) -> None:
        defer = partial(self.tracker.defer_loading, model_id, f"{model_id} is silent", retry_in_s=7)
        if self.attempt(defer, is_legal=model_id in self.in_progress):
            self.in_progress.remove(model_id)
            self.pending.append(model_id)
            self.deferred = [*(name for name in self.deferred if name != model_id), model_id]

    @rule()
    def mark_ready(self) -> None:
        if self.attempt(self.tracker.mark_ready, is_legal=not self.pending and not self.in_progress):
            self.is_ready = True

    @invariant()
    def every_id_is_where_the_model_says_and_nowhere_else(self) -> None:
        snapshot = self.tracker.snapshot()
        assert snapshot == ActivationSnapshot(
            state=READY if self.is_ready else PRE_WARMING,
            pending=tuple(self.pending),
            in_progress=next(iter(self.in_progress), None),
            completed=tuple(self.completed),
            failed=tuple(FailedLoad(model_id=model_id, error=f"{model_id} broke") for model_id in self.failed),
            deferred=tuple(
                DeferredLoad(
                    model_id=model_id,
                    error=f"{model_id} is silent",
                    attempt=1,
                    next_try_secs=0 if model_id in self.in_progress else 7,
                )
                for model_id in self.deferred
            )
            or UNSET,
        )
        for model_id in IDS:
            assert self.tracker.awaits(model_id) == (model_id in self.pending + self.in_progress)


TestTrackerMachine = TrackerMachine.TestCase
