"""What a host knows of its RPC servers: the numbers of their devices, who uses them, and what is shown of them."""

import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from neuron_lib.errors import LoadFailed, SourceUnavailable
from neuron_lib.llamacpp.engine_child import with_rpc_servers
from neuron_lib.llamacpp.rpc_client import NoRpcAnswer, RpcMemory
from neuron_lib.llamacpp.rpc_servers import RpcServers, open_addresses
from neuron_lib.placement import HostDevices, visible_devices
from neuron_lib.types import ModelSpec, RpcDevice, RpcServer, RpcServerState

A, B, C = "10.0.0.1:50052", "127.0.0.1:50052", "gpu-host:50052"
GB = RpcMemory(1 << 30, 2 << 30)


def spec(devices: tuple[int, ...] | None = None, split: int | None = None) -> ModelSpec:
    return ModelSpec(model_id="org/name", devices=devices, tensor_parallel=split)


def servers(answers: Mapping[str, tuple[RpcMemory, ...] | str], asked: list[str] | None = None) -> RpcServers:
    async def ask(address: str) -> tuple[RpcMemory, ...]:
        if asked is not None:
            asked.append(address)
        said = answers[address]
        if isinstance(said, str):
            raise NoRpcAnswer(said)
        return said

    return RpcServers(tuple(answers), ask=ask)


HOST = HostDevices(
    gpu_memory_mb=(8192,), rpc=(RpcDevice(A, 0), RpcDevice(A, 1), RpcDevice(B, 0)), rpc_memory_mb=(100, 200, 300)
)


@pytest.mark.parametrize(
    ("wanted", "gpu_layers", "gpus", "rpc", "visible"),
    [
        (spec(), -1, (0,), (), "0"),
        (spec(()), -1, (), (), ""),
        (spec((0, 2, 3)), -1, (0,), (RpcDevice(A, 1), RpcDevice(B, 0)), "0"),
        (spec((3, 1)), -1, (), (RpcDevice(B, 0), RpcDevice(A, 0)), ""),
        (spec(split=3), -1, (0,), (RpcDevice(A, 0), RpcDevice(A, 1)), "0"),
        (spec((1,)), 0, (), (), ""),
    ],
)
def test_the_devices_of_servers_are_numbered_after_the_gpus(
    wanted: ModelSpec, gpu_layers: int, gpus: tuple[int, ...], rpc: tuple[RpcDevice, ...], visible: str
) -> None:
    used = HOST.indices(wanted, gpu_layers=gpu_layers)
    assert (HOST.gpus(used), HOST.rpc_devices(used)) == (gpus, rpc)
    assert visible_devices(wanted, gpu_count=1, rpc_count=3)["CUDA_VISIBLE_DEVICES"] == visible


def test_a_model_that_names_no_device_stays_on_a_host_without_gpus() -> None:
    host = HostDevices(rpc=(RpcDevice(A, 0),), rpc_memory_mb=(100,))
    assert host.indices(spec(), gpu_layers=-1) == ()
    assert host.indices(spec((0,)), gpu_layers=-1) == (0,)
    with pytest.raises(LoadFailed, match="this host has 1"):
        host.indices(spec((0, 1)), gpu_layers=-1)


def test_devices_of_a_server_that_never_answered_may_be_there_later() -> None:
    host = HostDevices(gpu_memory_mb=(8192,), missing=f"{A} cannot be reached")
    assert host.indices(spec((0,)), gpu_layers=-1) == (0,)
    with pytest.raises(SourceUnavailable, match=rf"devices \(0, 1\) are asked for, and {A} cannot be reached"):
        host.indices(spec((0, 1)), gpu_layers=-1)


@pytest.mark.anyio
async def test_the_devices_after_a_silent_server_have_no_numbers() -> None:
    known = servers({B: (GB, GB), A: "silent", C: (GB,)})
    await known.look()
    devices = known.devices((8192,))
    assert (devices.rpc, devices.rpc_memory_mb, devices.missing) == (
        (RpcDevice(B, 0), RpcDevice(B, 1)),
        (2048, 2048),
        "silent",
    )
    assert known.states(gpu_count=1) == (
        RpcServer(
            address=B,
            state=RpcServerState.FREE,
            devices=(1, 2),
            memory_total_mb=(2048,) * 2,
            memory_free_mb=(1024,) * 2,
        ),
        RpcServer(address=A, state=RpcServerState.LOST, problem="silent"),
        RpcServer(address=C, state=RpcServerState.FREE, memory_total_mb=(2048,), memory_free_mb=(1024,)),
    )


@pytest.mark.anyio
async def test_a_server_in_use_is_not_asked_and_no_other_model_gets_it() -> None:
    asked: list[str] = []
    known = servers({A: (GB,), B: (GB,)}, asked)
    await known.look()
    async with known.held([A], model_id="org/one"):
        asked.clear()
        await known.look()
        assert asked == [B]
        assert known.user_of([B, A]) == (A, "org/one")
        assert [each.state for each in known.states(gpu_count=0)] == [RpcServerState.IN_USE, RpcServerState.FREE]
        with pytest.raises(LoadFailed, match=f"the RPC server {A} serves org/one"):
            async with known.held([B, A], model_id="org/two"):
                pytest.fail("it got the server")
        assert known.user_of([B]) is None
        asked.clear()
    assert asked == [A]  # its answer says that the memory is free again
    assert known.user_of([A, B]) is None


@pytest.mark.anyio
async def test_a_server_that_does_not_come_back_delays_an_unload_for_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: dict[str, Any] = {A: (GB,)}
    known = servers(answers)
    async with known.held([A], model_id="org/one"):
        answers[A] = "silent"
    assert "not visibly back" in caplog.text
    with pytest.raises(SourceUnavailable, match="org/one: silent"):
        await known.require([A], model_id="org/one")
    with anyio.fail_after(1):
        answers[A] = (GB,)
        await known.require([A], model_id="org/one")
    assert known.states(gpu_count=0)[0].state is RpcServerState.FREE


def test_servers_that_others_can_reach_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert open_addresses((A, B, C, "localhost:1", "127.1.2.3:9")) == [A, C]
    caplog.set_level(logging.WARNING)
    servers({B: (GB,)})
    assert not caplog.records
    servers({A: (GB,), B: (GB,), C: (GB,)})
    (record,) = caplog.records
    assert "check no caller and encrypt nothing" in record.getMessage()


@pytest.mark.parametrize(
    ("told", "names_servers"),
    [
        ("SIGABRT (x.cpp:480: Remote RPC server crashed or returned malformed response)", True),
        ("SIGABRT (x.cpp:547: Failed to connect to 10.0.0.1:50052)", True),
        ("SIGKILL", False),
    ],
)
def test_a_death_by_a_lost_server_names_the_servers(told: str, *, names_servers: bool) -> None:
    assert with_rpc_servers(told, ()) == told
    assert with_rpc_servers(told, (A, B)) == (
        f"it lost an RPC server, one of {A}, {B}: {told}" if names_servers else told
    )
