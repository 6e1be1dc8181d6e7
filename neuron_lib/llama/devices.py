"""The devices that libllama computes on, by name, and how much memory is free on each. Blocking.

The name "cpu" means the host's memory, also for buffers that a graphics driver maps and for integrated GPUs. "gpu0",
"gpu1" and so on are the GPUs that this process sees, in libllama's order.
"""

import ctypes
from typing import Any, Final

from neuron_lib import usable_memory
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.bindings import native_function

__all__ = ("CPU", "device_of_buffers", "free_bytes", "gpu_handles", "total_bytes")

CPU: Final = "cpu"
_GPU: Final = 1
"""GGML_BACKEND_DEVICE_TYPE_GPU. An integrated one uses the host's memory."""
_SIZE_P: Final = ctypes.POINTER(ctypes.c_size_t)


def free_bytes(device: str) -> int:
    """Bytes of memory that are free on a device. Raises `LoadFailed` if the kernel does not say it."""
    if device != CPU:
        return _memory(device)[0]
    free = usable_memory.free_bytes()
    if free is None:
        raise LoadFailed("the kernel does not say how much memory is available")
    return free


def total_bytes(device: str) -> int:
    """Bytes of memory of a device, free or not."""
    return usable_memory.usable_bytes() if device == CPU else _memory(device)[1]


def device_of_buffers(buffer_type: int) -> str:
    """The device whose memory buffers of a native type take."""
    if _is_host(buffer_type):
        return CPU
    device = _device_of(buffer_type)
    gpus = gpu_handles()
    return f"gpu{gpus.index(device)}" if device in gpus else CPU


def gpu_handles() -> list[Any]:
    """The native devices "gpu0", "gpu1" and so on."""
    devices = map(_device, range(_device_count()))
    return [device for device in devices if _device_type(device) == _GPU]


def _memory(device: str) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _device_memory(gpu_handles()[int(device.removeprefix("gpu"))], ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


# llama_cpp binds nothing of ggml's device list, though its library brings it along.
_device_count: Final = native_function("ggml_backend_dev_count", (), ctypes.c_size_t)
_device: Final = native_function("ggml_backend_dev_get", (ctypes.c_size_t,), ctypes.c_void_p)
_device_type: Final = native_function("ggml_backend_dev_type", (ctypes.c_void_p,), ctypes.c_int)
_device_memory: Final = native_function("ggml_backend_dev_memory", (ctypes.c_void_p, _SIZE_P, _SIZE_P), None)
_is_host: Final = native_function("ggml_backend_buft_is_host", (ctypes.c_void_p,), ctypes.c_bool)
_device_of: Final = native_function("ggml_backend_buft_get_device", (ctypes.c_void_p,), ctypes.c_void_p)
