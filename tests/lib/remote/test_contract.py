"""The backend keeps the rules of every backend, against a real neuron with scripted models."""

from collections.abc import Iterator

import pytest

from neuron_lib.remote.entry import RemoteEntry
from neuron_lib.remote.harness import RemoteHarness
from neuron_lib.testing import ScriptedModel
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject
from neuron_lib.types import ModelSpec
from tests.fakes.listening_host import ListeningHost, listening_host

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


@pytest.fixture(scope="module")
def other(process: None) -> Iterator[ListeningHost]:
    with listening_host({"org/model": ScriptedModel()}, resident=["org/model"]) as host:
        yield host


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(other: ListeningHost, check: Check) -> None:
    entry = RemoteEntry(name="other", kind="remote", url=f"http://127.0.0.1:{other.port}")
    subject = Subject(
        make=lambda: RemoteHarness(entry, environ={}),
        spec=ModelSpec(model_id="org/model", harness="other"),
        bad_spec=ModelSpec(model_id="org/nobody", harness="other"),
    )
    await check(subject)
