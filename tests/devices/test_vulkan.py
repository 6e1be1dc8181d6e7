"""A GPU on any machine: Vulkan on Mesa's software device, which computes on the CPU and looks like a GPU to llama.cpp.

Needs llama.cpp built by `make install CMAKE_ARGS=-DGGML_VULKAN=ON`, and the driver in Debian's mesa-vulkan-drivers.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuron_lib.config import LlamaCppConfig
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_service.cli.host_facts import ask_build
from tests.devices.servers import PLACE, ask, opened, reply_to, spec

pytestmark = [pytest.mark.devices, pytest.mark.anyio]

DRIVERS = Path("/usr/share/vulkan/icd.d")
NAME = "llvmpipe"
QUESTION = ask("Count to five.", max_tokens=6)


@pytest.fixture(scope="module")
def software_device(process: None) -> Mapping[str, str]:
    """The variables with which llama.cpp sees Mesa's software device, which it would pass over by itself."""
    driver = next(iter(sorted(DRIVERS.glob("lvp_icd.*.json"))), None)
    if driver is None:
        pytest.skip("Mesa's software device is missing, which is in the package mesa-vulkan-drivers")
    chosen = {"VK_DRIVER_FILES": str(driver), "VK_ICD_FILENAMES": str(driver), "GGML_VK_VISIBLE_DEVICES": "0"}
    build = ask_build(os.environ | chosen)
    if not isinstance(build, LlamaBuild) or not any(NAME in gpu for gpu in build.gpus):
        pytest.skip("llama.cpp was built without Vulkan: `make install CMAKE_ARGS=-DGGML_VULKAN=ON` builds it")
    return chosen


def harness(chosen: Mapping[str, str], gpu_layers: int = -1) -> LlamaCppHarness:
    config = LlamaCppConfig(n_ctx=512, n_batch=128, n_ubatch=128, threads=1, gpu_layers=gpu_layers)
    return LlamaCppHarness(config, models=(PLACE,), environ=os.environ | chosen)


@pytest.mark.parametrize("gpu_layers", [-1, 12])
async def test_a_model_on_the_software_device_is_planned_there_and_answers_as_on_the_cpu(
    software_device: Mapping[str, str], gpu_layers: int
) -> None:
    async with opened(harness({}), spec()) as model:
        alone, _ = await reply_to(model, QUESTION)
    on_device = harness(software_device, gpu_layers)
    plan = await on_device.estimate(spec())
    needs = {need.device: need for need in plan.devices}
    assert needs["gpu0"].weights_bytes > 0, f"nothing is on {NAME}"
    assert needs["gpu0"].context_bytes > 0
    async with opened(on_device, spec()) as model:
        text, usage = await reply_to(model, QUESTION)
    assert usage.completion_tokens > 0
    # Products are rounded in another order there, so a later token may be another one.
    assert text.split()[:2] == alone.split()[:2]
