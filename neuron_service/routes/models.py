"""Models: their lists, loads and unloads, the progress of loads, and the gateway's questions about one model."""

import time
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote

from litestar import MediaType, Request, Response, get, post
from litestar.types import ASGIApp
from msgspec import Struct

from neuron_lib import LoadFailed, LoadingModel, ModelInfo, NeuronError
from neuron_lib.errors import InvalidRequest
from neuron_lib.logs import get_logger
from neuron_lib.types import ModelSpec, public_id
from neuron_lib.wire.estimate import EstimateAnswer, estimate_answer
from neuron_lib.wire.management import UnloadBody, decode_load_request, decode_unload_request
from neuron_lib.wire.management_errors import (
    FlatError,
    KindError,
    capabilities_unknown,
    cuda_unavailable,
    load_error,
    not_resident,
    unload_error,
)
from neuron_lib.wire.openai_models import (
    OpenAiModel,
    OpenAiModelList,
    encode_absent_model,
    encode_model,
    encode_model_list,
)
from neuron_service.dialects import ERROR_SHAPE
from neuron_service.errors import respond, response
from neuron_service.exchange import exchange_of
from neuron_service.host import Host
from neuron_service.host_dependency import HostDependency
from neuron_service.loading_events import LoadingEvents
from neuron_service.openapi import Operation, described_by

__all__ = (
    "about_model",
    "estimate_model",
    "follow_loading",
    "get_openai_model",
    "list_loading",
    "list_models",
    "list_openai_models",
    "load_model",
    "unload_model",
)

logger = get_logger(__name__)

_PREFIX = b"/models/"
_OPENAI_PREFIX = b"/v1/models/"


class _Outcome(Struct):
    status: Literal["loaded", "unloaded"]


class _Endpoint(Struct):
    url: str


class _Capabilities(Struct):
    capabilities: tuple[str, ...]


_MODELS = Operation(method="get", path="/models", summary="The resident models", answers={200: tuple[ModelInfo, ...]})


@get(_MODELS.path, opt=described_by(_MODELS))
async def list_models(host: HostDependency) -> tuple[ModelInfo, ...]:
    """The resident models, as an array."""
    return host.registry.list_models()


_OPENAI_MODELS = Operation(
    method="get",
    path="/v1/models",
    summary="The resident models, and those that a request would load, in OpenAI's shape",
    answers={200: OpenAiModelList},
)


@get(_OPENAI_MODELS.path, media_type=MediaType.JSON, opt=described_by(_OPENAI_MODELS))
async def list_openai_models(host: HostDependency) -> bytes:
    """The resident models in OpenAI's shape, and those that a request would load."""
    return encode_model_list(
        host.registry.list_models(),
        created=int(time.time()),
        loaded=host.registry.loaded_unix_s(),
        on_demand=host.registry.on_demand(),
    )


_OPENAI_MODEL = Operation(
    method="get",
    path="/v1/models/{model_id}",
    summary="One resident model in OpenAI's shape",
    answers={200: OpenAiModel},
)


@get("/v1/models/{rest:path}", opt=described_by(_OPENAI_MODEL))
async def get_openai_model(request: Request[Any, Any, Any], host: HostDependency) -> Response[bytes]:
    """One resident model in OpenAI's shape. The id may have slashes, percent-encoded or not."""
    raw_path: bytes = request.scope["raw_path"]
    return _openai_model(_model_id(raw_path.removeprefix(_OPENAI_PREFIX)), host)


def _openai_model(model_id: str, host: Host) -> Response[bytes]:
    """The answer about one model. Raises `ModelNotLoaded` for one that is not resident and that no request loads."""
    if (absent := host.absent_on_demand(model_id)) is not None:
        return Response(encode_absent_model(absent, created=int(time.time())), media_type=MediaType.JSON)
    info = host.info(model_id)
    created = host.registry.loaded_unix_s().get(info.id, int(time.time()))
    return Response(encode_model(info, created=created), media_type=MediaType.JSON)


def _model_id(raw: bytes) -> str:
    return unquote(raw.decode("ascii", "replace"))


_LOADING = Operation(
    method="get", path="/models/loading", summary="The loads that run now", answers={200: tuple[LoadingModel, ...]}
)


@get(_LOADING.path, opt=described_by(_LOADING))
async def list_loading(host: HostDependency) -> tuple[LoadingModel, ...]:
    """The loads that run now, as in `/health`. The gateway does not ask for them."""
    return host.registry.loading()


_LOADING_EVENTS = Operation(
    method="get",
    path="/models/loading/events",
    summary="The loads that run now, at once and after each change",
    answers={200: None},
    event=tuple[LoadingModel, ...],
)


@get(_LOADING_EVENTS.path, opt=described_by(_LOADING_EVENTS))
async def follow_loading(host: HostDependency) -> ASGIApp:
    """The loads that run now as server-sent events: at once, and after each change."""
    return LoadingEvents(host.registry, wait_refused=host.entrance.wait_refused)


async def _read_spec(request: Request[Any, Any, Any], host: HostDependency) -> ModelSpec:
    """What the body asks to load. Raises `InvalidRequest`."""
    body = await request.body()
    await host.turn_to_decode(body)
    spec = decode_load_request(body, content_type=request.headers.get("content-type"))
    host.require_choice_of_harness(spec)
    return spec


_LOAD = Operation(
    method="post",
    path="/models/load",
    summary="Load a model; the answer comes when the model serves",
    request=ModelSpec,
    answers={200: _Outcome},
    errors=(ERROR_SHAPE, FlatError, KindError),
)


@post(_LOAD.path, status_code=200, opt=described_by(_LOAD))
async def load_model(request: Request[Any, Any, Any], host: HostDependency) -> Response[Any]:
    """Load a model, and answer when the model serves. The load goes on if the client hangs up."""
    try:
        spec = await _read_spec(request, host)
    except InvalidRequest as error:
        return respond(request, error, load_error)
    started_s = time.monotonic()
    try:
        if reason := (await host.discovery()).cuda_unavailable_reason:
            failure = LoadFailed(reason, model_id=spec.model_id)
            host.registry.tell_refused_load(failure, model_id=public_id(spec.model_id))
            return respond(request, failure, lambda _: cuda_unavailable(reason))
        host.require_harness()
        info = await host.registry.load(spec)
    except NeuronError as error:
        # The log has the public id, because the error may name the repository behind the model.
        return respond(request, error, load_error, model_id=public_id(spec.model_id))
    elapsed_ms = round((time.monotonic() - started_s) * 1000)
    labels = exchange_of(request.scope).labels
    logger.info("loaded model", extra=labels | {"model_id": info.id, "elapsed_ms": elapsed_ms})
    return Response(_Outcome("loaded"), status_code=200)


_ESTIMATE = Operation(
    method="post",
    path="/models/estimate",
    summary="Say how much memory a load would take; nothing is loaded",
    request=ModelSpec,
    answers={200: EstimateAnswer},
    errors=(ERROR_SHAPE, FlatError, KindError),
)


@post(_ESTIMATE.path, status_code=200, opt=described_by(_ESTIMATE))
async def estimate_model(request: Request[Any, Any, Any], host: HostDependency) -> Response[Any]:
    """Say what a load would take on each device, and whether as much is free. The body is that of a load."""
    try:
        spec = await _read_spec(request, host)
        host.require_harness()
        await host.discovery()  # the GPUs are part of the plan
        plan = await host.registry.estimate(spec)
    except NeuronError as error:
        return respond(request, error, load_error)
    return Response(estimate_answer(plan, model_id=public_id(spec.model_id)), status_code=200)


_UNLOAD = Operation(
    method="post",
    path="/models/unload",
    summary="Unload a model; the answer comes when its memory has been given back",
    request=UnloadBody,
    answers={200: _Outcome},
    errors=(ERROR_SHAPE, FlatError),
)


@post(_UNLOAD.path, status_code=200, opt=described_by(_UNLOAD))
async def unload_model(request: Request[Any, Any, Any], host: HostDependency) -> Response[Any]:
    """Unload a model. 200 means that its memory has been given back."""
    body = await request.body()
    await host.turn_to_decode(body)
    try:
        model_id = decode_unload_request(body, content_type=request.headers.get("content-type"))
        await host.registry.unload(model_id)
    except NeuronError as error:
        return respond(request, error, unload_error)
    logger.info("unloaded model", extra=exchange_of(request.scope).labels | {"model_id": model_id})
    return Response(_Outcome("unloaded"), status_code=200)


_MODEL = replace(_OPENAI_MODEL, path="/models/{model_id}")
_ENDPOINT = Operation(
    method="get",
    path="/models/{model_id}/endpoint",
    summary="The address that answers requests for a model",
    answers={200: _Endpoint},
    errors=(ERROR_SHAPE, FlatError),
)
_CAPABILITIES = Operation(
    method="get",
    path="/models/{model_id}/capabilities",
    summary="What a model that is resident or in the local cache can do",
    answers={200: _Capabilities},
    errors=(ERROR_SHAPE, FlatError),
)


@get("/models/{rest:path}", opt=described_by(_ENDPOINT, _CAPABILITIES, _MODEL))
async def about_model(request: Request[Any, Any, Any], host: HostDependency) -> Response[Any]:
    """`/models/{id}/endpoint` and `/models/{id}/capabilities`, and `/models/{id}`, which is OpenAI's `/v1/models/{id}`.

    The id may have slashes, percent-encoded or not. So it is read from the raw path and not from the parameter.
    """
    raw_path: bytes = request.scope["raw_path"]
    raw_id, _, question = raw_path.removeprefix(_PREFIX).rpartition(b"/")
    model_id = _model_id(raw_id)
    match question:
        case b"endpoint":
            try:
                return Response(_Endpoint(host.registry.endpoint(model_id)))
            except NeuronError:
                return response(not_resident(model_id))
        case b"capabilities":
            capabilities = await host.registry.capabilities(model_id)
            if capabilities is None:
                return response(capabilities_unknown(model_id))
            return Response(_Capabilities(capabilities))
        case _:
            return _openai_model(_model_id(raw_path.removeprefix(_PREFIX)), host)
