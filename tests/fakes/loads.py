"""Load commands that differ from another one, by the names of their fields and of those of their context."""

from typing import Any

from msgspec.structs import replace

from neuron_lib.engine.protocol import Load
from neuron_lib.types import ContextParams

__all__ = ("changed_load",)


def changed_load(load: Load, **changes: Any) -> Load:
    context = {name: changes.pop(name) for name in ContextParams.__struct_fields__ if name in changes}
    return replace(load, context=replace(load.context, **context), **changes)
