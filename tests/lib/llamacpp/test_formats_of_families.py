"""The demo model calls in the formats of other families: real tokens, real rules, real reader."""

from pathlib import Path

import pytest

from neuron_lib.types import FinishReason, ToolChoice
from tests.lib.llamacpp.test_bound_replies import GREEDY, HOT, TOOLS, demo, fits, reply

pytestmark = [pytest.mark.anyio, pytest.mark.model]


@pytest.mark.parametrize("name", ["deepseek_v4", "gemma4", "harmony", "kimi_k3", "qwen_xml"])
async def test_a_model_that_must_call_does_so_in_any_format(smollm2_path: Path, name: str) -> None:
    choice = ToolChoice("required", parallel=False)
    async with demo(smollm2_path, chat_template=None, tool_format=name) as model:
        for sampling in (GREEDY, HOT):
            got = await reply(model, tools=TOOLS, tool_choice=choice, sampling=sampling, max_tokens=250)
            assert [fits(call) for call in got.calls[0]] == [True]
            assert (got.text[0], got.reasons) == ("", (FinishReason.TOOL_CALLS,))
