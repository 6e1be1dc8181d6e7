"""A server for an application, over connections with bounds."""

import sys
from functools import partial

from neuron_service.asgi import ASGIApp
from neuron_service.http.bodies import BodyBudget
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.certificates import Certificates
from neuron_service.http.connection import BoundedConnection
from neuron_service.http.last_words import Refusals
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.listening import BACKLOG
from neuron_service.http.tls_listener import TlsListener
from neuron_service.http.uvicorn_parts import Server
from neuron_service.refusals import render

__all__ = ("http_server",)


def http_server(
    app: ASGIApp,
    *,
    cap: ConnectionCap,
    shutdown_limit_s: int,
    limits: ConnectionLimits | None = None,
    refusals: Refusals = render,
    certificates: Certificates | None = None,
    bodies: BodyBudget | None = None,
) -> Server:
    """A server that answers with `app`, on the socket that its `run_on` is given. With `certificates` it speaks TLS.

    `bodies` bounds the memory of the bodies of all requests; without it there is as good as no bound.
    `refusals` gives what a connection refuses by itself the form of the request's path. When asked to stop, the server
    waits `shutdown_limit_s` for answers that are under way.
    """
    limits = limits or ConnectionLimits()
    listen = None
    if certificates is not None:
        listen = partial(TlsListener, certificates=certificates, cap=cap, limits=limits)
    return Server(
        app,
        partial(BoundedConnection, limits=limits, cap=cap, refusals=refusals, bodies=bodies or BodyBudget(sys.maxsize)),
        listen=listen,
        backlog=BACKLOG,
        idle_s=limits.idle_s,
        shutdown_limit_s=shutdown_limit_s,
    )
