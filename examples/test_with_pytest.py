"""Tests of a program that uses the library, without a model: a script says what loads and replies do.

`pytest` with the plugin of anyio runs them. A test needs no time and no network.
"""

import pytest

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.errors import LoadFailed, ModelNotLoaded
from neuron_lib.testing import ScriptedHarness, ScriptedModel

pytestmark = pytest.mark.anyio

MODEL = "acme/assistant"
REQUEST = ChatRequest(model_id=MODEL, messages=({"role": "user", "content": "Hi"},))


async def shout(registry: Registry) -> str:
    """The program under test."""
    async with registry.chat(REQUEST) as reply:
        return "".join([event.text async for event in reply if isinstance(event, TextDelta)]).upper()


async def test_a_reply_is_shouted() -> None:
    async with Registry([ScriptedHarness({MODEL: ScriptedModel(reply=("Hel", "lo"))})]) as registry:
        await registry.load(ModelSpec(model_id=MODEL))
        assert await shout(registry) == "HELLO"


async def test_a_model_that_is_not_there_is_told() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        with pytest.raises(ModelNotLoaded):
            await shout(registry)


async def test_a_load_that_fails_is_told() -> None:
    broken = ScriptedModel(load_error=LoadFailed("out of memory"))
    async with Registry([ScriptedHarness({MODEL: broken})]) as registry:
        with pytest.raises(LoadFailed, match="out of memory"):
            await registry.load(ModelSpec(model_id=MODEL))
