"""How a route gets the node of its host."""

from typing import TypeAlias

from litestar.di import NamedDependency

from neuron_service.node import Node

__all__ = ("HostNode",)

HostNode: TypeAlias = NamedDependency[Node]
"""The node as a route's parameter `node`; `app` provides it."""
