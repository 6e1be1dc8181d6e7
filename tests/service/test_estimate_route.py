"""`POST /models/estimate` says what a load would take, and refuses as a load does."""

import anyio
import pytest

from neuron_lib import Registry
from neuron_lib.errors import SourceUnavailable
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import DeviceNeed, MemoryPlan, ModelSpec
from tests.fakes.scripted_host import ScriptedHost, scripted_host
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

PLAN = MemoryPlan(
    devices=(
        DeviceNeed(device="cpu", weights_bytes=1, context_bytes=2, compute_bytes=3, process_bytes=4, free_bytes=10),
        DeviceNeed(device="gpu0", weights_bytes=100, context_bytes=20, compute_bytes=3, free_bytes=122),
    ),
    layers=4,
    gpu_layers=5,
    n_ctx=512,
    native_context=8192,
    seats=2,
)
BODY = {"model_id": "mirror:org/a", "harness": "planning"}


class PlanningHarness(ScriptedHarness):
    """Its plans wait for `may_plan`."""

    name = "planning"

    def __init__(self) -> None:
        super().__init__()
        self.may_plan = anyio.Event()
        self.asked: list[ModelSpec] = []

    async def estimate(self, spec: ModelSpec) -> MemoryPlan:
        self.asked.append(spec)
        await self.may_plan.wait()
        if spec.quant == "none":
            raise SourceUnavailable("the hub is silent", model_id="org/a")
        return PLAN


def planning(host: ScriptedHost, *, is_quick: bool = True) -> PlanningHarness:
    harness = PlanningHarness()
    if is_quick:
        harness.may_plan.set()
    host.registry.register(harness)
    return harness


async def test_an_estimate_has_the_need_of_each_device_and_whether_it_fits() -> None:
    async with scripted_host() as host:
        harness = planning(host)
        reply = await host.client.post("/models/estimate", BODY)
    assert reply.status == 200
    assert reply.json() == {
        "model_id": "org/a",
        "fits": False,
        "devices": [
            {
                "device": "cpu",
                "fits": True,
                "needed_bytes": 10,
                "free_bytes": 10,
                "weights_bytes": 1,
                "context_bytes": 2,
                "compute_bytes": 3,
                "process_bytes": 4,
            },
            {
                "device": "gpu0",
                "fits": False,
                "needed_bytes": 123,
                "free_bytes": 122,
                "weights_bytes": 100,
                "context_bytes": 20,
                "compute_bytes": 3,
                "process_bytes": 0,
            },
        ],
        "layers": 4,
        "gpu_layers": 5,
        "n_ctx": 512,
        "native_context": 8192,
        "seats": 2,
    }
    assert harness.asked == [ModelSpec(model_id="mirror:org/a", harness="planning")]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "malformed_json"),
        ({"model_id": "org/a"}, 422, "harness"),
        ({"model_id": "org/a", "harness": "other"}, 400, "unknown harness"),
        ({"model_id": "org/a", "harness": "scripted"}, 400, "cannot say how much memory"),
        ({**BODY, "quant": "none"}, 422, "the hub is silent"),
    ],
)
async def test_an_estimate_is_refused_as_a_load_is(body: object, status: int, words: str) -> None:
    async with scripted_host() as host:
        planning(host)
        reply = await host.client.post("/models/estimate", body)
    assert reply.status == status
    assert words in reply.body.decode()
    assert host.registry.list_models() == ()


async def test_only_a_few_plans_are_made_at_once() -> None:
    async with scripted_host() as host, anyio.create_task_group() as tasks:
        harness = planning(host, is_quick=False)
        for _ in range(4):
            tasks.start_soon(host.client.post, "/models/estimate", BODY)
        while len(harness.asked) < 4:
            await let_others_run()
        reply = await host.client.post("/models/estimate", BODY)
        harness.may_plan.set()
    assert reply.status == 503
    assert reply.headers["retry-after"] == "5"
    assert len(harness.asked) == 4


async def test_a_host_that_stops_makes_no_plans() -> None:
    async with scripted_host() as host:
        harness = planning(host)
        host.registry.close_admission()
        reply = await host.client.post("/models/estimate", BODY)
    assert reply.status == 503
    assert harness.asked == []


@pytest.mark.parametrize(("makes_room", "free_bytes"), [(False, [10, 122]), (True, [9, 122])])
async def test_no_more_is_free_than_models_may_take_if_loads_ask_for_that(
    *, makes_room: bool, free_bytes: list[int]
) -> None:
    rules = ResidencyRules(makes_room=makes_room)
    async with Registry(residency=rules, capacity=lambda: {"cpu": 9, "gpu0": 200}) as registry:
        harness = PlanningHarness()
        harness.may_plan.set()
        registry.register(harness)
        plan = await registry.estimate(ModelSpec(model_id="org/a", harness="planning"))
    assert [device.free_bytes for device in plan.devices] == free_bytes
    assert plan.devices[0].fits == (not makes_room)
