"""Two RPC servers on the loopback interface, and what the demo model answers on the CPU alone.

servers     two servers that live as long as the tests of a file: others count the processes of a run. A test that
            ends one starts its own
on_cpu      what the CPU answers to a request, asked once
"""

from collections.abc import Awaitable, Callable, Iterator

import pytest

from neuron_lib.types import ChatRequest
from tests.devices.servers import Server, harness_of, opened, reply_to, serving, spec


@pytest.fixture(scope="module")
def servers(process: None) -> Iterator[tuple[Server, Server]]:
    with serving() as first, serving() as second:
        yield first, second


@pytest.fixture(scope="session")
def on_cpu(process: None) -> Callable[[ChatRequest], Awaitable[str]]:
    known: dict[str, str] = {}

    async def answer(request: ChatRequest) -> str:
        key = str(request.messages)
        if key not in known:
            async with opened(harness_of(()), spec(())) as model:
                known[key], _ = await reply_to(model, request)
        return known[key]

    return answer
