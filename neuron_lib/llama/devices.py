"""The devices that libllama computes on, by name, and how much memory is free on each. Blocking.

The name "cpu" means the host's memory, also for buffers that a graphics driver maps and for integrated GPUs. "gpu0",
"gpu1" and so on are the GPUs that this process sees, in libllama's order. "rpc0", "rpc1" and so on are the devices of
RPC servers that this process uses, in the order of `use_rpc`.

A server that does not answer keeps a call waiting, and one that is gone ends the process: that is how libllama does it.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final

from neuron_lib import usable_memory
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.bindings import native_function
from neuron_lib.types import RpcDevice

__all__ = (
    "CPU",
    "can_use_rpc",
    "device_of_buffers",
    "free_bytes",
    "gpu_handles",
    "sees_gpu",
    "total_bytes",
    "use_rpc",
    "wanted_handles",
)

CPU: Final = "cpu"
_GPU: Final = 1
"""GGML_BACKEND_DEVICE_TYPE_GPU. An integrated one uses the host's memory."""
_INTEGRATED_GPU: Final = 2
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
    for kind, handles in (("gpu", gpu_handles()), ("rpc", _rpc_handles)):
        if device in handles:
            return f"{kind}{handles.index(device)}"
    return CPU


def gpu_handles() -> list[Any]:
    """The native devices "gpu0", "gpu1" and so on."""
    return _handles_of(_GPU)


def sees_gpu() -> bool:
    """Whether there is a GPU, also an integrated one. libllama's own answer is always yes if it was built with RPC."""
    return bool(gpu_handles() or _handles_of(_INTEGRATED_GPU))


def can_use_rpc() -> bool:
    """Whether libllama was built with RPC."""
    return bool(_registry(b"RPC"))


def use_rpc(devices: Sequence[RpcDevice]) -> None:
    """Connect to the servers of these devices, which are "rpc0", "rpc1" and so on from now on.

    Called once in a process at most. Raises `LoadFailed` if libllama was built without RPC, and for a device that a
    server does not have.
    """
    if devices and not can_use_rpc():
        raise LoadFailed(
            "this llama.cpp was built without RPC, which rpc_servers needs: install llama-cpp-python again with "
            "CMAKE_ARGS=-DGGML_RPC=ON, as `make` does"
        )
    _rpc_handles[:] = [_rpc_handle(device) for device in devices]


def wanted_handles(*, beside_gpus: bool) -> list[Any] | None:
    """The native devices that a model is shared out among, in order; None leaves the choice to libllama.

    Devices of RPC servers come first, as libllama itself orders them: the last device computes the scores, which then
    need not cross the network. `beside_gpus` says whether the GPUs of this host take part.
    """
    if not _rpc_handles:
        return None
    return [*_rpc_handles, *((gpu_handles() or _handles_of(_INTEGRATED_GPU)) if beside_gpus else ())]


def _handles_of(kind: int) -> list[Any]:
    devices = map(_device, range(_device_count()))
    return [device for device in devices if _device_type(device) == kind]


def _rpc_handle(device: RpcDevice) -> Any:
    add_server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(_address(_registry(b"RPC"), _ADD_SERVER))
    server = add_server(device.server.encode())
    count = _count_of(server) if server else 0
    if device.index >= count:
        raise LoadFailed(f"the RPC server {device.server} has {count} devices, and device {device.index} is asked for")
    return _device_of_server(server, device.index)


def _memory(device: str) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    handles = _rpc_handles if device.startswith("rpc") else gpu_handles()
    _device_memory(handles[int(device[3:])], ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


_ADD_SERVER: Final = b"ggml_backend_rpc_add_server"
_rpc_handles: Final[list[Any]] = []
"""libllama keeps its servers for the life of the process, and an engine has one model, so there is one list."""


# llama_cpp binds nothing of ggml's device list, though its library brings it along.
_device_count: Final = native_function("ggml_backend_dev_count", (), ctypes.c_size_t)
_device: Final = native_function("ggml_backend_dev_get", (ctypes.c_size_t,), ctypes.c_void_p)
_device_type: Final = native_function("ggml_backend_dev_type", (ctypes.c_void_p,), ctypes.c_int)
_device_memory: Final = native_function("ggml_backend_dev_memory", (ctypes.c_void_p, _SIZE_P, _SIZE_P), None)
_is_host: Final = native_function("ggml_backend_buft_is_host", (ctypes.c_void_p,), ctypes.c_bool)
_device_of: Final = native_function("ggml_backend_buft_get_device", (ctypes.c_void_p,), ctypes.c_void_p)
_registry: Final = native_function("ggml_backend_reg_by_name", (ctypes.c_char_p,), ctypes.c_void_p)
_count_of: Final = native_function("ggml_backend_reg_dev_count", (ctypes.c_void_p,), ctypes.c_size_t)
_device_of_server: Final = native_function(
    "ggml_backend_reg_dev_get", (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_void_p
)
_address: Final = native_function(
    "ggml_backend_reg_get_proc_address", (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_void_p
)
