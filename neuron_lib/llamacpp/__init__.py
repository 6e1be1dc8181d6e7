"""The llama.cpp harness on the daemon's side: one engine process for each loaded model. Does not import llama_cpp.

Its names are imported when they are first used, so that `backend` can be imported without the harness.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from neuron_lib.config import LlamaCppConfig
    from neuron_lib.llamacpp.harness import LlamaCppHarness
    from neuron_lib.sources.configured import model_store

__all__ = ("LlamaCppConfig", "LlamaCppHarness", "model_store")

_HOMES: Final = {
    "LlamaCppConfig": "neuron_lib.config",
    "LlamaCppHarness": "neuron_lib.llamacpp.harness",
    "model_store": "neuron_lib.sources.configured",
}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
