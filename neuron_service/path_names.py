"""The name of a path for a count: of many paths that differ by the id of a model one name is made. Pure."""

from typing import Final

from neuron_service.dialects import DIALECTS, IMAGE_PATHS

__all__ = ("OTHER", "path_name")

OTHER: Final = "other"
"""The name of every path at which there is nothing."""
_ID: Final = "{model_id}"
_NAMES: Final = frozenset(
    {
        "/",
        "/page/icon.svg",
        "/page/neuron.css",
        "/page/neuron.js",
        "/page/state",
        "/health",
        "/healthz",
        "/readyz",
        "/version",
        "/discovery",
        "/events",
        "/metrics",
        "/openapi.json",
        "/models",
        "/models/loading",
        "/models/loading/events",
        "/models/estimate",
        "/models/load",
        "/models/unload",
        "/v1/models",
    }.union(IMAGE_PATHS, *(dialect.paths for dialect in DIALECTS))
)
_ABOUT_A_MODEL: Final = ("/endpoint", "/capabilities")


def path_name(path: str) -> str:
    """The path itself, with `{model_id}` for the id of a model, or `OTHER`. There are some forty names."""
    if path in _NAMES:
        return path
    for prefix, suffixes in (("/v1/models/", ()), ("/models/", _ABOUT_A_MODEL)):
        if path.startswith(prefix):
            suffix = next((suffix for suffix in suffixes if path.endswith(suffix)), "")
            return f"{prefix}{_ID}{suffix}"
    return OTHER
