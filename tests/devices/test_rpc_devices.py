"""Device code runs for real: RPC servers on this machine are devices like any other. The fast part, which CI runs."""

import logging
from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from neuron_lib.config import AdmissionConfig
from neuron_lib.errors import EngineDead, LoadFailed, SourceUnavailable
from neuron_lib.types import ChatRequest, ModelSpec, ModelStatus, RpcServerState, TextDelta
from tests.devices.servers import Server, ask, harness_of, opened, reply_to, serving, spec
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.model]

Servers = tuple[Server, Server]
OnCpu = Callable[[ChatRequest], Awaitable[str]]

QUESTION = ask("Count to ten.")
SLACK_BYTES = 24 << 20
"""What the server takes for itself: graphs, messages, and what its allocator keeps."""


@pytest.mark.parametrize(
    ("wanted", "gpu_layers", "used"),
    [
        pytest.param(spec((1,)), -1, {"gpu1"}, id="one device"),
        pytest.param(spec((0, 1)), -1, {"gpu0", "gpu1"}, id="two devices"),
        pytest.param(spec(split=2), 12, {"gpu0", "gpu1"}, id="two devices and the CPU"),
        pytest.param(spec((1, 0)), 8, {"gpu0", "gpu1"}, id="in the other order", marks=pytest.mark.devices),
    ],
)
async def test_a_model_on_devices_of_other_hosts_answers_as_on_the_cpu(
    servers: Servers, on_cpu: OnCpu, wanted: ModelSpec, gpu_layers: int, used: set[str]
) -> None:
    harness = harness_of(servers, gpu_layers=gpu_layers)
    plan = await harness.estimate(wanted)
    needs = {need.device: need for need in plan.devices}
    assert needs.keys() == {"cpu", *used}
    assert all(needs[name].weights_bytes > 0 for name in used)
    assert (needs["cpu"].context_bytes > 0) is (gpu_layers >= 0)  # the cells of a layer are where the layer is
    assert plan.gpu_layers == (plan.layers + 1 if gpu_layers < 0 else gpu_layers)
    async with opened(harness, wanted) as model:
        assert {f"gpu{index}" for index in model.info().devices} == used
        text, _ = await reply_to(model, QUESTION)
    assert text == await on_cpu(QUESTION)


@pytest.fixture
def fresh_servers(process: None) -> Iterator[Servers]:
    """Servers that have kept no memory of an earlier model."""
    with serving() as first, serving() as second:
        yield first, second


async def test_memory_is_what_the_plan_says_and_is_returned_with_the_unload(fresh_servers: Servers) -> None:
    servers, harness = fresh_servers, harness_of(fresh_servers)
    plan = await harness.estimate(spec((0, 1)))
    before = [server.rss_bytes for server in servers]
    async with opened(harness, spec((0, 1))) as model:
        await reply_to(model, QUESTION)
        during = [server.rss_bytes for server in servers]
        assert [each.state for each in harness.rpc_servers()] == [RpcServerState.IN_USE] * 2
    after = [server.rss_bytes for server in servers]
    needs = [need for need in plan.devices if need.device != "cpu"]
    for need, empty, full, left in zip(needs, before, during, after, strict=True):
        # The compute buffer is planned for the longest batch; a page of it that no batch has touched is not taken.
        assert need.weights_bytes + need.context_bytes <= full - empty <= need.needed_bytes + SLACK_BYTES
        assert left <= empty + SLACK_BYTES
    assert [each.state for each in harness.rpc_servers()] == [RpcServerState.FREE] * 2


@pytest.mark.parametrize("kv_layout", ["per_sequence", pytest.param("unified", marks=pytest.mark.devices)])
async def test_kept_prompts_come_back_from_a_device_and_from_the_memory_of_the_host(
    servers: Servers, on_cpu: OnCpu, kv_layout: str
) -> None:
    harness = harness_of(servers, kv_layout=kv_layout, admission=AdmissionConfig(max_in_flight=1))
    story = "Once there was a small dog that lived beside a long river. " * 4
    first, other = ask(f"{story}What lived there?"), ask("Name three colours of the rainbow, please. " * 6)
    async with opened(harness, spec((0, 1))) as model:
        told, usage = await reply_to(model, first)
        assert usage.cached_tokens == 0
        await reply_to(model, other)  # there is one seat, so the prompt before goes to the memory of the host
        again, usage = await reply_to(model, first)
    assert usage.prompt_tokens - 3 <= usage.cached_tokens < usage.prompt_tokens
    assert told == again == await on_cpu(first)


async def test_a_server_serves_one_model_at_a_time_and_says_which(servers: Servers) -> None:
    harness = harness_of(servers)
    async with opened(harness, spec((0,))) as model:
        with pytest.raises(LoadFailed, match=rf"the RPC server {servers[0].address} serves org/demo, .* unload that"):
            async with opened(harness, spec((0, 1)), "org/other"):
                pytest.fail("it loaded")
        with pytest.raises(LoadFailed, match=f"no memory plan, because the RPC server {servers[0].address} serves"):
            await harness.estimate(spec((0,)))
        assert await harness.memory_need(spec((0,))) == {}
        assert (await harness.estimate(spec((1,)))).needs.keys() == {"cpu", "gpu1"}
        text, _ = await reply_to(model, QUESTION)
    assert text


async def test_a_server_that_is_lost_in_mid_stream_ends_the_reply_and_the_model_recovers_with_the_server(
    servers: Servers, on_cpu: OnCpu, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with serving() as lost:
        harness = harness_of((servers[0], lost))
        async with opened(harness, spec((0, 1))) as model:

            async def read() -> None:
                async with model.run(ask("Write a long story.", max_tokens=400)) as reply:
                    async for event in reply:
                        if isinstance(event, TextDelta):
                            lost.kill()

            with pytest.raises(EngineDead, match=f"lost an RPC server, one of .*{lost.address}"):
                await read()
            assert model.info().status is ModelStatus.RECOVERING
            with anyio.fail_after(PATIENCE_S):
                while harness.rpc_servers()[1].state is not RpcServerState.LOST:
                    await anyio.lowlevel.checkpoint()
                lost.restart()
                while model.info().status is not ModelStatus.LOADED:
                    await anyio.lowlevel.checkpoint()
            text, _ = await reply_to(model, QUESTION)
            assert model.load().engine_restarts == 1
    assert text == await on_cpu(QUESTION)
    assert f"the RPC server {lost.address} cannot be reached" in caplog.text


async def test_a_model_without_named_devices_asks_no_server_and_one_with_a_missing_server_can_be_tried_again() -> None:
    with serving() as gone:
        pass
    harness = harness_of((gone,))
    async with opened(harness, spec()) as model:
        assert model.info().devices == ()
    assert harness.rpc_servers()[0].state is RpcServerState.UNKNOWN
    with pytest.raises(
        SourceUnavailable, match=f"devices .0,. are asked for, and the RPC server {gone.address} cannot"
    ):
        async with opened(harness, spec((0,))):
            pytest.fail("it loaded")
    assert harness.rpc_servers()[0].state is RpcServerState.LOST
