"""Devices of other hosts, which llama.cpp reaches by its RPC protocol."""

from enum import StrEnum

from msgspec import Struct

__all__ = ("RpcDevice", "RpcServer", "RpcServerState")


class RpcDevice(Struct, frozen=True):
    """The device `index` of the RPC server at `server` (`host:port`), which counts its devices from 0."""

    server: str
    index: int


class RpcServerState(StrEnum):
    """What is known of an RPC server. One server serves one program at a time."""

    UNKNOWN = "unknown"
    FREE = "free"
    IN_USE = "in_use"
    LOST = "lost"


class RpcServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An RPC server of the configuration, as `/health` shows it: what it said when it was last asked.

    It is asked when a model is loaded on devices of RPC servers, not more often. `devices` are the numbers by which
    loads name its devices. `memory_total_mb` and `memory_free_mb` are those of the same devices in MiB, before the
    load. `model_id` is the model of this host that uses the server. `problem` says why the server is lost.
    """

    address: str
    state: RpcServerState
    devices: tuple[int, ...] = ()
    memory_total_mb: tuple[int, ...] = ()
    memory_free_mb: tuple[int, ...] = ()
    model_id: str | None = None
    problem: str | None = None
