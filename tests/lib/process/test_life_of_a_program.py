"""A program is started, watched and ended: whatever it does, it costs its own requests at most, and leaves nothing."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from neuron_lib.errors import EngineDead, EngineFailed, LoadFailed, NeuronError, SuspectRequest
from neuron_lib.process import gateway, server_process
from neuron_lib.process.entry import StopRules
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject
from neuron_lib.types import Finished, ModelSpec, ModelStatus, TextDelta
from neuron_lib.upstream.model import UpstreamModel
from tests.fakes.programs import MODEL_ID, ON_PORT, SPEC, chat, fake_harness
from tests.patience import PATIENCE_S, slowness

pytestmark = [pytest.mark.anyio, pytest.mark.process]


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RestartPolicy.__init__, "__defaults__", None)


@asynccontextmanager
async def opened(*args: str, **keys: Any) -> AsyncIterator[UpstreamModel]:
    with anyio.fail_after(PATIENCE_S):
        async with fake_harness(*args, **keys).open(SPEC, model_id=MODEL_ID, report=lambda _progress: None) as model:
            yield model


async def failure(*args: str, **keys: Any) -> str:
    """What is said of a program that does not come to serve."""
    with pytest.raises(LoadFailed) as raised:
        async with opened(*args, **keys):
            pytest.fail("it serves")
    return raised.value.message
