"""How uvicorn is used: with our connections, and with nothing of its own around them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from neuron_service.connection import BoundedConnection
from neuron_service.connection_cap import ConnectionCap
from neuron_service.connection_limits import ConnectionLimits
from neuron_service.listening import BACKLOG

__all__ = ("uvicorn_config",)


def uvicorn_config(
    app: Callable[..., Any], *, cap: ConnectionCap, shutdown_limit_s: int, limits: ConnectionLimits | None = None
) -> uvicorn.Config:
    """How uvicorn serves `app`: over `BoundedConnection`, and with nothing of its own around it. When asked to stop, it
    waits for open answers for `shutdown_limit_s`.
    """
    limits = limits or ConnectionLimits()
    return uvicorn.Config(
        app,
        http=partial(BoundedConnection, limits=limits, cap=cap),  # type: ignore[arg-type] # it is only ever called
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=shutdown_limit_s,
    )
