"""What a key must be allowed to do for a request. Pure."""

from typing import Final, Literal, TypeAlias, get_args

from neuron_service.asgi import READING_METHODS
from neuron_service.dialects import DIALECTS, IMAGE_PATHS

__all__ = ("OPEN_PATHS", "SCOPES", "Scope", "needed_scope")

Scope: TypeAlias = Literal["inference", "admin", "metrics"]
"""`inference` asks models. `admin` loads and unloads them. `metrics` reads what was counted and what happens, which is
`/metrics` and `/events`. Every key reads everything else, which is the state of the host and its lists of models.
"""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

OPEN_PATHS: Final = frozenset({"/healthz", "/", "/page/icon.svg", "/page/neuron.css", "/page/neuron.js"})
"""Paths that are answered to everybody. The answers say nothing but that the process makes progress. At `/` a stranger
gets a field for a key: the page's own script sends the key, because browsers send none with an address.
"""

_MEASURES: Final = frozenset({"/metrics", "/events"})
"""`/events` says of the requests of all callers when they came and how long their replies were."""
_INFERENCE: Final = frozenset(IMAGE_PATHS).union(*(dialect.paths for dialect in DIALECTS))


def needed_scope(method: str, path: str) -> Scope | None:
    """The scope that a key needs for this request; None if every key will do.

    A request that may change something needs `admin`, unless its path is known to ask a model. So a new path is closed
    until somebody opens it.
    """
    if path in _MEASURES:
        return "metrics"
    if method in READING_METHODS:
        return None
    return "inference" if path in _INFERENCE else "admin"
