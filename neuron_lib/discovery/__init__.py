"""What this host is and how its devices feel: asked of the vendor's tools once, then every few seconds."""

from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.memory import read_memory_used_mb, wait_memory_back
from neuron_lib.discovery.probe import discover

__all__ = ("DeviceMonitor", "discover", "read_memory_used_mb", "wait_memory_back")
