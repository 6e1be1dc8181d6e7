"""The routes that ask a model: one for each dialect, a `POST` to each of its paths."""

import secrets
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec.structs import replace

from neuron_lib.upstream.hops import HOPS_HEADER, read_hops
from neuron_lib.wire.dialect import Dialect
from neuron_service.answers import StreamedAnswer, WholeAnswer
from neuron_service.dialects import ERROR_SHAPE
from neuron_service.exchange import exchange_of
from neuron_service.host_dependency import HostDependency
from neuron_service.openapi import Operation, described_by

__all__ = ("reply_route",)


def reply_route(dialect: Dialect) -> HTTPRouteHandler:
    """The route of `dialect`. Imports the modules that read and write its bodies."""
    decode = dialect.load()

    @post([*dialect.paths], status_code=200, opt=described_by(later=partial(_operations, dialect)))
    async def answer_reply(request: Request[Any, Any, Any], host: HostDependency) -> ASGIApp:
        body = await request.body()
        await host.turn_to_decode(body)
        exchange = exchange_of(request.scope)
        decoded = decode(body, headers=request.headers, principal=exchange.principal)
        exchange.model_id = host.meant_id(decoded.task.model_id)
        hops = read_hops(request.headers.get(HOPS_HEADER))
        task = replace(decoded.task, request_id=exchange.request_id, model_id=exchange.model_id, hops=hops)
        reply = host.registry.run(task, on_account=exchange.take)
        unique, created = secrets.token_hex(12), int(time.time())
        if decoded.stream:
            return StreamedAnswer(reply, decoded.encoder(unique=unique, created=created))
        return WholeAnswer(reply, decoded.collector(unique=unique, created=created))

    return answer_reply


def _operations(dialect: Dialect) -> Iterator[Operation]:
    """What the API is, if it says so."""
    if dialect.shapes is None:
        return
    shapes = dialect.shapes()
    for path in dialect.paths:
        yield Operation(
            method="post",
            path=path,
            summary=shapes.summary,
            request=shapes.request,
            answers={200: shapes.reply},
            event=shapes.event,
            last_data=shapes.last_data,
            errors=(shapes.error or ERROR_SHAPE,),
        )
