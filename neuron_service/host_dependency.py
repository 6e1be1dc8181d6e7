"""How a route gets the host of its host."""

from typing import TypeAlias

from litestar.di import NamedDependency

from neuron_service.host import Host

__all__ = ("HostDependency",)

HostDependency: TypeAlias = NamedDependency[Host]
"""The host as a route's parameter `host`; `app` provides it."""
