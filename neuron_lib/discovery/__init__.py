"""The hardware of this host, asked of the vendors' tools until they answer, and its readings every few seconds."""

from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.host_monitor import HostMonitor
from neuron_lib.discovery.look import look_until_seen
from neuron_lib.discovery.memory import read_memory_used_mb, wait_memory_back
from neuron_lib.discovery.probe import discover

__all__ = ("DeviceMonitor", "HostMonitor", "discover", "look_until_seen", "read_memory_used_mb", "wait_memory_back")
