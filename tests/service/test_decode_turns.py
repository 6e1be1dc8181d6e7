import anyio
import pytest

from tests.fakes.scripted_host import chat_body, scripted_host

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("path", ["/models/load", "/models/unload"])
async def test_large_bodies_about_models_wait_for_their_turn_as_well(path: str) -> None:
    body = {"model_id": "org/a", "harness": "scripted", "padding": "x" * 200_000}
    async with scripted_host() as host, anyio.create_task_group() as tasks, host.real.decode_turn:
        tasks.start_soon(host.client.post, path, body)
        await anyio.wait_all_tasks_blocked()
        assert host.real.decode_turn.statistics().tasks_waiting == 1


async def test_large_bodies_are_decoded_in_turns_for_which_small_ones_do_not_wait() -> None:
    small = chat_body("org/a")
    large = small | {"padding": "x" * 200_000}
    async with scripted_host(resident=["org/a"]) as host, anyio.create_task_group() as tasks:
        async with host.real.decode_turn:
            tasks.start_soon(host.client.post, CHAT, large)
            assert (await host.client.post(CHAT, small)).status == 200
            assert len(host.harness.requests) == 1
        assert (await host.client.post(CHAT, large)).status == 200
    assert len(host.harness.requests) == 3
