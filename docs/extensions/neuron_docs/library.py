"""The library reference: every public name of `neuron_lib`, with its docstring."""

from importlib import import_module
from typing import Final

from msgspec import Struct
from sphinx.application import Sphinx

import neuron_lib

__all__ = ("HOMES", "names_of", "page", "setup")

HOMES: Final = {
    "Models of a host": "neuron_lib.registry.registry",
    "Start-up loading": "neuron_lib.registry.startup",
    "What happens on a host": "neuron_lib.registry.event_log",
    "Programs without an event loop": "neuron_lib.blocking",
    "Which models are in memory": "neuron_lib.registry.residency_rules",
    "The backend of llama.cpp": "neuron_lib.llamacpp",
    "Tasks, events and snapshots": "neuron_lib.types",
    "Errors": "neuron_lib.errors",
    "What a backend has to be": "neuron_lib.harness",
    "How a service offers a backend": "neuron_lib.backend",
    "Tests without a model": "neuron_lib.testing",
    "The rules of every backend": "neuron_lib.testing.harness_contract",
    "Configuration": "neuron_lib.config",
}
"""The sections of the page, each with the module whose public names it shows."""


def names_of(module: str) -> list[str]:
    """The public names of a module of `HOMES`. If some of them are names of `neuron_lib`, only those."""
    public = list(import_module(module).__all__)
    return [name for name in public if name in neuron_lib.__all__] or public


def page() -> str:
    """All sections, in the notation of MyST with autodoc inside."""
    parts, shown = [], set[str]()
    for title, module in HOMES.items():
        public = [name for name in names_of(module) if name not in shown]
        shown.update(public)
        where = "neuron_lib" if public[0] in neuron_lib.__all__ else module
        parts.append(f"## {title}\n\n`from {where} import …`")
        parts.extend(_entry(where, name) for name in public)
    return "\n\n".join(parts)


def _entry(module: str, name: str) -> str:
    value = getattr(import_module(module), name)
    if isinstance(value, type):
        kind = "exception" if issubclass(value, BaseException) else "class"
        return f"```{{eval-rst}}\n.. auto{kind}:: {module}.{name}\n   :members:\n   :undoc-members:\n```"
    return f"```{{eval-rst}}\n.. auto{'function' if callable(value) else 'data'}:: {module}.{name}\n```"


def _shorten(_app: Sphinx, _what: str, _name: str, value: object, *_more: object) -> tuple[str, None] | None:
    """The fields of a struct are listed below it, so that its signature would say them twice."""
    is_struct = isinstance(value, type) and issubclass(value, Struct)
    return ("", None) if is_struct else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True}
