"""A backend whose models repeat what they are told. This module is imported at every start, so it imports little."""

from typing import Annotated

from msgspec import Meta, Struct

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.harness import Harness

__all__ = ("ECHO", "EchoConfig")


class EchoConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[harness.echo]`. `seats` is how many replies of a model are made at the same time."""

    seats: Annotated[int, Meta(ge=1, le=256)] = 4
    max_queue_depth: Annotated[int, Meta(ge=0, le=100_000)] = 32


def _make(config: EchoConfig, _setup: HarnessSetup) -> Harness:
    from neuron_echo.harness import EchoHarness  # noqa: PLC0415 - only a service that uses the backend needs this

    return EchoHarness(seats=config.seats, max_queue_depth=config.max_queue_depth)


ECHO = Backend(name="echo", struct=EchoConfig, make=_make)
"""The entry point of `pyproject.toml` leads here."""
