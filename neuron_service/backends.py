"""The backends that this service offers, in one table. A new backend is one entry here, and no edit anywhere else."""

from collections.abc import Sequence
from typing import Any, Final

from neuron_lib.backend import Backend
from neuron_lib.config import Config, StoreSettings
from neuron_lib.llamacpp.backend import LLAMACPP

__all__ = ("BACKENDS", "find_backend", "store_settings")

BACKENDS: Final[tuple[Backend[Any], ...]] = (LLAMACPP,)


def find_backend(name: str, backends: Sequence[Backend[Any]]) -> Backend[Any] | None:
    """The backend that `name` means, which may be one of its aliases."""
    return next((backend for backend in backends if backend.answers_to(name)), None)


def store_settings(config: Config) -> dict[str, StoreSettings]:
    """Where models come from, by the name of the backend that fetches them. The first is that of the commands."""
    return {name: table for name, table in config.harness.items() if isinstance(table, StoreSettings)}
