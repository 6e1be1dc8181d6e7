"""How far a load is, in the words of the log. A module of its own, because its imports take longer than a question."""

from typing import Any

import msgspec

from neuron_lib.registry.progress import describe
from neuron_lib.types import LoadProgress

__all__ = ("describe_load",)


def describe_load(progress: Any) -> str:
    """The `progress` of an answer or an event in words. Raises `ValueError` for anything else."""
    return describe(msgspec.convert(progress, LoadProgress))
