"""How much memory a model will take on each device, known before its weights are read."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

__all__ = ("DeviceNeed", "MemoryPlan")


class DeviceNeed(Struct, frozen=True, kw_only=True):
    """What one device has to hold, in bytes. `device` is "cpu" for the host's memory, else "gpu0", "gpu1" and so on.

    `weights_bytes` are the tensors of the file, `context_bytes` the KV cells and other states of all sequences, and
    `compute_bytes` the buffers of one decode call. `process_bytes` is what the engine's process takes beside them; on a
    GPU this is not known before a load, and 0. `free_bytes` is what was free when the plan was made.
    """

    device: str
    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    process_bytes: int = 0
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """All of it together."""
        return self.weights_bytes + self.context_bytes + self.compute_bytes + self.process_bytes

    @property
    def fits(self) -> bool:
        """Whether as much is free."""
        return self.needed_bytes <= self.free_bytes


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """How a model would be loaded with one configuration, and what that takes on each device.

    `layers` is how many layers the model has, and `gpu_layers` how many of the parameters `gpu_layers` asks for are on
    GPUs. `seats` sequences of up to `n_ctx` tokens share `kv_cells` cells; a model that makes vectors reads up to
    `n_ctx` tokens at once, and has no cells. `native_context` is the number of tokens that the model was trained for.
    """

    devices: tuple[DeviceNeed, ...]
    layers: int
    gpu_layers: int
    n_ctx: int
    native_context: int
    seats: int
    kv_layout: str = ""
    kv_cells: int = 0
    kv_type_k: str = ""
    kv_type_v: str = ""

    @property
    def fits(self) -> bool:
        """Whether each device has as much free as it has to hold."""
        return all(device.fits for device in self.devices)

    @property
    def needs(self) -> dict[str, int]:
        """The bytes by the name of the device."""
        return {device.device: device.needed_bytes for device in self.devices}

    def within(self, capacity: Mapping[str, int]) -> "MemoryPlan":
        """The same plan where all models together may take `capacity` bytes by the name of the device: no device has
        more free than that. A device that is not named has no limit.
        """
        devices = (
            replace(device, free_bytes=min(device.free_bytes, capacity.get(device.device, device.free_bytes)))
            for device in self.devices
        )
        return replace(self, devices=tuple(devices))

    @property
    def cell_bytes(self) -> int:
        """What one KV cell costs on all devices together, in bytes; 0 without cells. States beside cells are shared out
        evenly.
        """
        return sum(device.context_bytes for device in self.devices) // self.kv_cells if self.kv_cells else 0
