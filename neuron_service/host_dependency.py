"""Gives the routes their host."""

from typing import TypeAlias

from litestar.di import NamedDependency

from neuron_service.host import Host

__all__ = ("HostDependency",)

HostDependency: TypeAlias = NamedDependency[Host]
"""The type of a route's parameter `host`, which `app` provides."""
