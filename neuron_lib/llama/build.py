"""What the installed llama.cpp was built for: `python -m neuron_lib.llama.build` prints it as one line of JSON.

To be run in a process of its own, because loading the library may end the process, such as on a CPU without AVX2.
"""

import ctypes
import sys
from importlib.metadata import version
from typing import Any, Final

import msgspec

from neuron_lib.llama.bindings import init_backend, native_function
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.llama.devices import can_use_rpc, free_bytes, gpu_handles, sees_gpu

__all__ = ("describe_build", "main")

_description: Final = native_function("ggml_backend_dev_description", (ctypes.c_void_p,), ctypes.c_char_p)


def describe_build() -> LlamaBuild:
    """Load the library and ask it. Blocking; a build for GPUs starts their driver."""
    init_backend()
    return LlamaBuild(
        binding_version=version("llama-cpp-python"),
        supports_gpu=sees_gpu(),
        supports_rpc=can_use_rpc(),
        gpus=tuple(
            f"{_name(device)}, {free_bytes(f'gpu{index}') >> 20} MiB free" for index, device in enumerate(gpu_handles())
        ),
    )


def main() -> None:
    """Print the build."""
    sys.stdout.buffer.write(msgspec.json.encode(describe_build()) + b"\n")


def _name(device: Any) -> str:
    name: bytes = _description(device)
    return name.decode("utf-8", "replace")


if __name__ == "__main__":
    main()
