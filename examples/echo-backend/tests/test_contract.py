"""The backend keeps the rules of every backend."""

import pytest
from neuron_echo.harness import EchoHarness

from neuron_lib import ModelSpec
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject


@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: Check) -> None:
    """Each rule is a test of its own."""
    spec = ModelSpec(model_id="echo/parrot", harness="echo")
    await check(Subject(make=EchoHarness, spec=spec, bad_spec=ModelSpec(model_id="org/other", harness="echo")))
