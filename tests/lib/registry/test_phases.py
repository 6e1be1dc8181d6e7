"""The table of phases, written down a second time: what each event does in each phase."""

import pytest

from neuron_lib.registry.phases import Event, after
from neuron_lib.types import ModelPhase

LOADING, SERVING, RECOVERING = ModelPhase.LOADING, ModelPhase.SERVING, ModelPhase.RECOVERING
DRAINING, CLOSING, GONE = ModelPhase.DRAINING, ModelPhase.CLOSING, ModelPhase.GONE

PHASES = (LOADING, SERVING, RECOVERING, DRAINING, CLOSING, GONE)

TABLE: dict[Event, tuple[ModelPhase, ...]] = {
    # In the order of PHASES.
    Event.OPENED: (SERVING, SERVING, RECOVERING, DRAINING, CLOSING, GONE),
    Event.UNLOADED: (CLOSING, DRAINING, CLOSING, DRAINING, CLOSING, GONE),
    Event.LOADS_CLOSED: (CLOSING, SERVING, RECOVERING, DRAINING, CLOSING, GONE),
    Event.LOST: (LOADING, CLOSING, CLOSING, CLOSING, CLOSING, GONE),
    Event.DRAINED: (LOADING, SERVING, RECOVERING, CLOSING, CLOSING, GONE),
    Event.REGISTRY_LEFT: (CLOSING, CLOSING, CLOSING, CLOSING, CLOSING, GONE),
    Event.RELEASED: (GONE, GONE, GONE, GONE, GONE, GONE),
}

CASES = [(phase, event, then) for event, row in TABLE.items() for phase, then in zip(PHASES, row, strict=True)]


def test_the_table_has_every_phase_and_every_event() -> None:
    assert set(PHASES) == set(ModelPhase)
    assert set(TABLE) == set(Event)


@pytest.mark.parametrize(("phase", "event", "then"), CASES, ids=[f"{p}, {e.name.lower()}" for p, e, _ in CASES])
def test_an_event_leads_to_the_next_phase(phase: ModelPhase, event: Event, then: ModelPhase) -> None:
    assert after(phase, event) is then


def test_no_event_makes_a_model_recover_because_only_its_harness_can_say_that() -> None:
    assert all(then is not RECOVERING for phase, _, then in CASES if phase is not RECOVERING)


def test_a_model_never_comes_back() -> None:
    order = (LOADING, SERVING, DRAINING, CLOSING, GONE)
    moves = [(phase, then) for phase, _, then in CASES if phase is not then and phase is not RECOVERING]
    assert [move for move in moves if order.index(move[1]) < order.index(move[0])] == []


def test_whatever_has_happened_the_end_of_the_registry_and_of_the_harness_end_a_model() -> None:
    assert {after(after(phase, Event.REGISTRY_LEFT), Event.RELEASED) for phase in ModelPhase} == {GONE}


@pytest.mark.parametrize("phase", ModelPhase)
def test_a_model_loads_or_serves_or_leaves(phase: ModelPhase) -> None:
    assert [phase is LOADING, phase.serves, phase.is_leaving].count(True) == 1
