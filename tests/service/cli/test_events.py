"""What `neuron events` says of each kind of event."""

from typing import get_args

import pytest

from neuron_lib.types import HostEvent
from neuron_service.cli.events import describe_event

RELOAD = {"type": "reload", "at": 0.0, "id": "0123abcd-7"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "the configuration was read again"),
        ({"error": "port: no number"}, "the configuration was read again and refused: port: no number"),
        ({"needs_restart": ["port"]}, "the configuration was read again, and a restart is needed for port"),
    ],
)
def test_a_reload_is_said_with_its_outcome(more: dict[str, object], words: str) -> None:
    assert describe_event(RELOAD | more).endswith(f"reload     -  {words}")


def test_every_kind_of_event_has_words() -> None:
    kinds = {kind.__struct_config__.tag for kind in get_args(HostEvent)}
    assert kinds == {"host", "model", "progress", "restart", "rejection", "reply", "reload", "gap"}
