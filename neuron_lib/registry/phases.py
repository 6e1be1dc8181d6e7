"""The phases of a hosted model, and the phase that follows each event. Pure: a table and questions about it.

What each operation does in each phase (`Registry` and `HostedModel` act accordingly):

|                       | loading            | serving      | recovering   | draining           | closing              |
|-----------------------|--------------------|--------------|--------------|--------------------|----------------------|
| load of this model    | waits for the same | AlreadyLoaded| AlreadyLoaded| waits until gone,  | waits until gone,    |
|                       | outcome            |              |              | then loads         | then loads           |
| chat                  | ModelLoading       | enters [4]   | enters [4]   | ModelNotLoaded [1] | ModelNotLoaded [1]   |
| unload                | closing            | draining     | closing [2]  | waits for the end  | waits for the end    |
| admission closes      | closing            | stays [3]    | stays [3]    | stays [3]          | stays                |
| tick of supervision   | stays              | stays        | stays        | closing, if the    | overdue, if it lasts |
|                       |                    |              |              | model recovers [2] | too long             |
| the model is lost     | -                  | closing      | closing      | closing            | stays                |
| the registry is left  | closing            | closing      | closing      | closing            | stays                |

Gone is the end: the model's memory is back and the registry has forgotten the model. The next load starts anew.

[1] ModelLoading while a load waits for this model to be gone.
[2] Running requests cannot end while the model recovers, so the unload does not wait for them.
[3] Running requests go on. Requests that have not entered their reply are refused with ShuttingDown.
[4] ModelLoading while the model makes room for another one (`residency`).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from neuron_lib.types import ModelPhase

__all__ = ("Event", "after")


class Event(Enum):
    """What can happen to a hosted model. Recovering is not an event, because the harness decides it."""

    OPENED = "its harness has loaded it"
    UNLOADED = "somebody unloads it"
    LOADS_CLOSED = "the host admits no more loads"
    LOST = "it died by itself, or its harness failed under it"
    DRAINED = "no request runs any more, or the drain has taken too long"
    REGISTRY_LEFT = "the registry is left, and waits for no request"
    RELEASED = "its harness has let it go, has given its load up, or could not load it"


_AFTER: Final[Mapping[Event, Mapping[ModelPhase, ModelPhase]]] = {
    Event.OPENED: {ModelPhase.LOADING: ModelPhase.SERVING},
    Event.UNLOADED: {
        ModelPhase.LOADING: ModelPhase.CLOSING,
        ModelPhase.SERVING: ModelPhase.DRAINING,
        ModelPhase.RECOVERING: ModelPhase.CLOSING,
    },
    Event.LOADS_CLOSED: {ModelPhase.LOADING: ModelPhase.CLOSING},
    Event.LOST: dict.fromkeys((ModelPhase.SERVING, ModelPhase.RECOVERING, ModelPhase.DRAINING), ModelPhase.CLOSING),
    Event.DRAINED: {ModelPhase.DRAINING: ModelPhase.CLOSING},
    Event.REGISTRY_LEFT: dict.fromkeys(
        (ModelPhase.LOADING, ModelPhase.SERVING, ModelPhase.RECOVERING, ModelPhase.DRAINING), ModelPhase.CLOSING
    ),
    Event.RELEASED: dict.fromkeys(ModelPhase, ModelPhase.GONE),
}


def after(phase: ModelPhase, event: Event) -> ModelPhase:
    """The phase that follows `phase` when `event` happens; the same phase if the event changes nothing then."""
    return _AFTER[event].get(phase, phase)
