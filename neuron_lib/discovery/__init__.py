"""What this host is and how its devices feel: asked of the vendor's tools once, then every few seconds."""

from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.probe import discover

__all__ = ("DeviceMonitor", "discover")
