"""The RPC servers of a host: what each of them said last, and which model uses it.

One server serves one program at a time, so one model. A server that is in use cannot be asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Final, TypeAlias

import anyio

from neuron_lib.errors import LoadFailed, SourceUnavailable
from neuron_lib.llamacpp.rpc_client import NoRpcAnswer, RpcMemory, ask_rpc_server, split_address
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.placement import HostDevices
from neuron_lib.types import RpcDevice, RpcServer, RpcServerState

__all__ = ("AskRpcServer", "RpcServers", "open_addresses")

logger: FieldLogger = get_logger(__name__)

AskRpcServer: TypeAlias = Callable[[str], Awaitable[tuple[RpcMemory, ...]]]
"""Asks the server at an address for its devices. Takes some seconds at most. Raises `NoRpcAnswer`."""

_RETURN_LIMIT_S: Final = 6.0
"""A server frees the memory of an engine that has ended before it answers the next question."""


def open_addresses(addresses: Sequence[str]) -> list[str]:
    """Those of the addresses that are not surely on this machine."""
    return [address for address in addresses if not _is_loopback(split_address(address)[0])]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RpcServers:
    """The servers at `addresses`, in the order of the configuration. Belongs to the event loop. `ask` asks one."""

    def __init__(self, addresses: Sequence[str], *, ask: AskRpcServer = ask_rpc_server) -> None:
        self.addresses: Final = tuple(addresses)
        self._ask: Final = ask
        self._seen: dict[str, tuple[RpcMemory, ...]] = {}
        self._problems: dict[str, str] = {}
        self._users: dict[str, str] = {}
        if exposed := open_addresses(addresses):
            logger.warning(
                "RPC servers check no caller and encrypt nothing: whoever reaches one can read and change all that it "
                "has. Keep them in a network that you trust",
                extra={"rpc_servers": exposed},
            )

    async def look(self) -> None:
        """Ask the servers that no model of this host uses, all at the same time."""
        await self._look_at([address for address in self.addresses if address not in self._users])

    async def require(self, addresses: Collection[str], *, model_id: str) -> None:
        """Raise `SourceUnavailable` if one of these servers does not answer now, whichever model uses it."""
        await self._look_at(addresses)
        if problems := [self._problems[address] for address in addresses if address in self._problems]:
            raise SourceUnavailable(f"{model_id}: {'; '.join(problems)}", model_id=model_id)

    async def _look_at(self, addresses: Collection[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                tasks.start_soon(self._ask_one, address)

    async def _ask_one(self, address: str) -> None:
        try:
            self._seen[address] = await self._ask(address)
            self._problems.pop(address, None)
        except NoRpcAnswer as error:
            self._problems[address] = str(error)

    def devices(self, gpu_memory_mb: Sequence[int]) -> HostDevices:
        """All devices of the host, which has these GPUs: the devices of the servers come after them.

        A server that never answered may have any number of devices, so those after it are not known.
        """
        rpc, sizes_mb, missing = list[RpcDevice](), list[int](), ""
        for address in self.addresses:
            memories = self._seen.get(address)
            if memories is None:
                missing = self._problems.get(address, f"the RPC server {address} has not been asked")
                break
            rpc += (RpcDevice(address, index) for index in range(len(memories)))
            sizes_mb += (memory.total_bytes >> 20 for memory in memories)
        return HostDevices(
            gpu_memory_mb=tuple(gpu_memory_mb), rpc=tuple(rpc), rpc_memory_mb=tuple(sizes_mb), missing=missing
        )

    def user_of(self, addresses: Collection[str]) -> tuple[str, str] | None:
        """The first of the servers that a model of this host uses, and the id of the model."""
        return next(((each, self._users[each]) for each in addresses if each in self._users), None)

    @asynccontextmanager
    async def held(self, addresses: Collection[str], *, model_id: str) -> AsyncIterator[None]:
        """The servers are used by a model for the length of the block. At its end, wait until they answer again: then
        they have freed the memory of the model. No wait if the block ends by an error.

        Raises `LoadFailed` if another model uses one of them.
        """
        if (used := self.user_of(addresses)) is not None:
            server, other = used
            text = f"the RPC server {server} serves {other}, and a server serves one model at a time: unload that first"
            raise LoadFailed(text, model_id=model_id)
        self._users |= dict.fromkeys(addresses, model_id)
        try:
            yield
            await self._wait_free(addresses, model_id)
        finally:
            for address in addresses:
                self._users.pop(address, None)

    async def _wait_free(self, addresses: Collection[str], model_id: str) -> None:
        try:
            with anyio.fail_after(_RETURN_LIMIT_S):
                await self.require(addresses, model_id=model_id)
        except (TimeoutError, SourceUnavailable) as error:
            reason = str(error) or f"no answer within {_RETURN_LIMIT_S:g} s"
            fields = {"model_id": model_id, "reason": reason}
            logger.warning("the memory of an unloaded model is not visibly back on its RPC servers", extra=fields)

    def states(self, *, gpu_count: int) -> tuple[RpcServer, ...]:
        """What `/health` shows, on a host with so many GPUs."""
        numbers = self._numbers(gpu_count)
        return tuple(self._state(address, numbers.get(address, ())) for address in self.addresses)

    def _numbers(self, gpu_count: int) -> Mapping[str, tuple[int, ...]]:
        numbers: dict[str, tuple[int, ...]] = {}
        first = gpu_count
        for address in self.addresses:
            memories = self._seen.get(address)
            if memories is None:
                break
            numbers[address] = tuple(range(first, first + len(memories)))
            first += len(memories)
        return numbers

    def _state(self, address: str, numbers: tuple[int, ...]) -> RpcServer:
        memories, user, problem = self._seen.get(address, ()), self._users.get(address), self._problems.get(address)
        state = RpcServerState.FREE if memories else RpcServerState.UNKNOWN
        if problem is not None:
            state = RpcServerState.LOST
        elif user is not None:
            state = RpcServerState.IN_USE
        return RpcServer(
            address=address,
            state=state,
            devices=numbers,
            memory_total_mb=tuple(memory.total_bytes >> 20 for memory in memories),
            memory_free_mb=tuple(memory.free_bytes >> 20 for memory in memories),
            model_id=user,
            problem=problem,
        )
