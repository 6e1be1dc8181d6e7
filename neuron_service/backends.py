"""The backends that this service offers, in one table. A new backend is one entry here, and no edit anywhere else."""

from typing import Any, Final

from neuron_lib.backend import Backend
from neuron_lib.llamacpp.backend import LLAMACPP

__all__ = ("BACKENDS",)

BACKENDS: Final[tuple[Backend[Any], ...]] = (LLAMACPP,)
"""`neuron pull`, `ls` and `rm` work on the models of the first one that fetches models."""
