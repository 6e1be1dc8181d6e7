"""The Python packages that only `neuron serve` needs: those of the extra `service`."""

import importlib.util
from typing import Final

__all__ = ("missing_packages",)

_PACKAGES: Final = ("httptools", "litestar", "prometheus_client", "uvicorn", "uvloop")
"""`pip install neuron-node` leaves them out."""


def missing_packages() -> list[str]:
    """Those that are not installed."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
