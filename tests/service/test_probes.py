import anyio
import pytest
from anyio import wait_all_tasks_blocked
from trio.testing import MockClock

from neuron_lib import load_default_models
from neuron_lib.testing import ScriptedModel
from tests.fakes.scripted_host import chat_body, scripted_host, spec

pytestmark = pytest.mark.anyio

A, B = "org/a", "org/b"
PATHS = ("/healthz", "/readyz")


@pytest.mark.parametrize("path", PATHS)
async def test_an_idle_host_without_models_is_alive_and_ready(path: str) -> None:
    async with scripted_host() as host:
        reply = await host.client.get(path)
    assert reply.status == 200
    assert reply.json()["status"] == {"/healthz": "ok", "/readyz": "ready"}[path]


@pytest.mark.parametrize("path", PATHS)
async def test_probes_answer_head_with_the_same_status(path: str) -> None:
    async with scripted_host(default_models=[spec(A)]) as host:
        assert (await host.client.request("HEAD", path)).status == (await host.client.get(path)).status


async def test_a_host_is_ready_only_when_its_start_up_loading_is_over() -> None:
    scripts = {A: ScriptedModel(), B: ScriptedModel(may_load=anyio.Event())}
    specs = [spec(A), spec(B)]
    async with scripted_host(scripts, default_models=specs) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        reply = await host.client.get("/readyz")
        assert reply.status == 503
        assert reply.json() == {"status": "not_ready", "reason": "loading", "detail": "loading org/b 50 %, 2 of 2"}
        assert (await host.client.get("/healthz")).status == 200

        may_load = scripts[B].may_load
        assert may_load is not None
        may_load.set()
        await host.tracker.wait_ready()
        reply = await host.client.get("/readyz")
        assert reply.status == 200
        assert reply.json() == {"status": "ready", "reason": None, "detail": "serving 2 models"}


async def test_a_host_that_lost_its_only_model_is_alive_and_not_ready() -> None:
    script = ScriptedModel()
    async with scripted_host({A: script}, default_models=[spec(A)]) as host:
        await load_default_models(host.registry, [spec(A)], host.tracker)
        script.dies.set()
        await wait_all_tasks_blocked()
        reply = await host.client.get("/readyz")
        assert reply.status == 503
        assert reply.json() == {
            "status": "not_ready",
            "reason": "no_servable_model",
            "detail": "serving no models, 1 lost",
        }
        assert (await host.client.get("/healthz")).json() == {"status": "ok"}


async def test_a_host_that_drains_is_at_once_not_ready_and_finishes_its_replies() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        async with host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running:
            await running.chunk()
            host.real.start_draining()
            reply = await host.client.get("/readyz")
            assert reply.status == 503
            assert reply.json() == {"status": "not_ready", "reason": "draining", "detail": "draining 1 request"}
            assert (await host.client.get("/healthz")).status == 200
            refused = await host.client.post("/v1/chat/completions", chat_body(A))
            assert (refused.status, refused.headers["retry-after"]) == (503, "15")
            assert script.may_speak is not None
            script.may_speak.set()
            assert (await running.rest()).endswith(b"data: [DONE]\n\n")
        assert (await host.client.get("/readyz")).json()["detail"] == "stopping"


async def test_a_host_whose_stop_is_announced_is_at_once_not_ready_and_still_takes_requests() -> None:
    async with scripted_host({A: ScriptedModel()}, resident=[A]) as host:
        host.real.announce_stop()
        reply = await host.client.get("/readyz")
        assert (reply.status, reply.json()["reason"]) == (503, "draining")
        (model,) = (await host.client.get("/models")).json()
        assert model["status"] == "recovering"
        assert (await host.client.get(f"/models/{A}/endpoint")).status == 200
        assert (await host.client.post("/v1/chat/completions", chat_body(A))).status == 200
        host.real.start_draining()
        assert (await host.client.post("/v1/chat/completions", chat_body(A))).status == 503


class TestOnAClockThatIsMovedByHand:
    @pytest.fixture
    def clock(self) -> MockClock:
        return MockClock()

    @pytest.fixture
    def anyio_backend(self, clock: MockClock) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": clock}

    async def test_a_host_whose_supervision_hangs_is_stuck_until_it_moves_again(self, clock: MockClock) -> None:
        late_s = 0.0
        async with scripted_host(clock=lambda: clock.current_time() + late_s) as host:
            await wait_all_tasks_blocked()
            late_s = 10.0
            reply = await host.client.get("/healthz")
            assert (reply.status, reply.json()) == (503, {"status": "stuck"})
            assert (await host.client.get("/health")).status == 200
            clock.jump(1)
            await wait_all_tasks_blocked()
            assert (await host.client.get("/healthz")).status == 200
