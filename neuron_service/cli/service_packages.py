"""The Python packages that only `neuron serve` needs: those of the extra `service`."""

import importlib.util
from typing import Final

__all__ = ("SERVICE_PACKAGES", "missing_packages")

SERVICE_PACKAGES: Final = ("httptools", "litestar", "prometheus_client", "uvicorn", "uvloop")
"""`pip install neuron-node` leaves them out."""


def missing_packages() -> list[str]:
    """Those that are not installed."""
    return [name for name in SERVICE_PACKAGES if importlib.util.find_spec(name) is None]
