import pytest

from neuron_lib.engine.protocol import (
    Beat,
    Broken,
    Cancel,
    Cancelled,
    Command,
    Delta,
    Done,
    Prepare,
    Prepared,
    Refused,
    Report,
    Start,
    StepEvents,
    Taken,
)
from neuron_lib.llamacpp.in_hand import InHand
from neuron_lib.types import FinishReason, Sampling


def prepare(request: int) -> Prepare:
    return Prepare(request=request, messages=())


def start(request: int, *, choices: int = 1) -> Start:
    return Start(request=request, sampling=Sampling(temperature=0, seed=0), max_tokens=1, choices=choices)


def done(request: int, *, choice: int = 0) -> StepEvents:
    event = Done(
        request=request,
        choice=choice,
        reason=FinishReason.STOP,
        text="",
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        prefill_s=0.0,
        decode_s=0.0,
    )
    return StepEvents(1, (event,))


def prepared(request: int) -> Prepared:
    return Prepared(request=request, prompt_tokens=1, prompt_end="")


REFUSED = Refused(request=1, code="x", message="x")
DELTA = StepEvents(1, (Delta(1, "x", 1),))
BROKEN = StepEvents(1, (Broken(request=1, message="x"),))


@pytest.mark.parametrize(
    ("history", "in_hand"),
    [
        ([], set()),
        ([prepare(1), prepare(2)], set()),
        ([prepare(1), prepare(2), Taken((2,))], {2}),
        ([prepare(1), prepare(2), Taken((1, 2))], {1, 2}),
        ([prepare(1), prepare(2), Taken((1,)), Taken((2,))], {2}),
        ([prepare(1), prepare(2), Taken((1, 2)), prepared(1)], {2}),
        ([prepare(1), prepare(2), Taken((1, 2)), REFUSED], {2}),
        ([prepare(1), Taken((1,)), prepared(1), start(1), prepare(2), prepare(3), Taken((3,))], {1, 3}),
        ([prepare(1), Taken((1,)), Cancel(1)], {1}),
        ([prepare(1), Taken((1,)), Cancel(1), Cancelled(1)], set()),
        ([start(1), start(2), DELTA, Beat(step=1, in_flight=2, rss_bytes=1)], {1, 2}),
        ([start(1), start(2), done(1)], {2}),
        ([start(1), start(2), BROKEN], {2}),
        ([start(1), start(2), Cancel(1)], {1, 2}),
        ([start(1), start(2), Cancel(1), DELTA, Beat(step=1, in_flight=0, rss_bytes=1)], {1, 2}),
        ([start(1), start(2), Cancel(1), Cancelled(1)], {2}),
        ([start(1, choices=2), done(1, choice=1)], {1}),
        ([start(1, choices=2), done(1, choice=1), done(1)], set()),
        ([start(1), Cancel(1), done(1)], set()),
        ([start(1), Cancel(1), done(1), Cancelled(1)], set()),
    ],
)
def test_in_hand_is_what_was_started_and_has_not_ended_and_what_is_being_prepared(
    history: list[Command | Report], in_hand: set[int]
) -> None:
    assert requests_after(history) == in_hand


def test_known_is_also_what_stands_in_line() -> None:
    in_hand = InHand()
    for request in (1, 2):
        in_hand.tell(prepare(request))
    assert (in_hand.knows(2), in_hand.knows(3)) == (True, False)
    in_hand.hear(prepared(2))
    assert not in_hand.knows(2)


def requests_after(history: list[Command | Report]) -> frozenset[int]:
    in_hand = InHand()
    for entry in history:
        if isinstance(entry, Prepare | Start | Cancel):
            in_hand.tell(entry)
        else:
            assert isinstance(entry, Report)
            in_hand.hear(entry)
    return in_hand.requests
