"""What a signal to stop means, with a clock that the test sets."""

import pytest

from neuron_service.stop_signals import Meaning, StopSignals

DRAIN, SAME, HURRY = Meaning.DRAIN, Meaning.SAME, Meaning.HURRY


@pytest.mark.parametrize(
    ("times_s", "meanings"),
    [
        ([0.0], [DRAIN]),
        ([0.0, 0.0], [DRAIN, SAME]),
        ([0.0, 0.199], [DRAIN, SAME]),
        ([0.0, 0.2], [DRAIN, HURRY]),
        ([0.0, 60.0], [DRAIN, HURRY]),
        ([0.0, 0.05, 0.1, 0.15], [DRAIN, SAME, SAME, SAME]),
        ([0.0, 0.15, 0.3], [DRAIN, SAME, HURRY]),  # the first counts, so that nobody hurries in vain
        ([1000.0, 1000.1, 1000.5, 1000.6], [DRAIN, SAME, HURRY, HURRY]),
    ],
)
def test_a_signal_within_200_ms_of_the_first_belongs_to_the_same_request_to_stop(
    times_s: list[float], meanings: list[Meaning]
) -> None:
    stops = StopSignals()
    assert [stops.hear(now_s=now_s) for now_s in times_s] == meanings
