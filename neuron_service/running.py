"""What a service that runs has got from its configuration, and how it is exchanged for that of another one."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.config import Config, store_settings
from neuron_lib.errors import ConfigError, cause_chain
from neuron_lib.harness import Harness
from neuron_lib.logs import get_logger
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.types import public_id
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.hosts import ANY, AccessRules
from neuron_service.backends import harness_tables
from neuron_service.capacity import host_memory_bytes
from neuron_service.host import Host
from neuron_service.http.bodies import BodyBudget
from neuron_service.http.certificates import Certificates
from neuron_service.http_rules import HttpRules
from neuron_service.log_config import set_level
from neuron_service.settings import Settings
from neuron_service.socket_reader import read_socket

__all__ = ("Offer", "Running", "access_rules", "configured_ids", "endpoint_url", "make_harnesses", "say_who_is_let_in")

logger = get_logger(__name__)

Offer: TypeAlias = tuple[Harness, tuple[str, ...]]
"""A harness, and its other names."""


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """The parts of the service that follow from the configuration. One per process, on the event loop."""

    host: Host
    sock: socket.socket
    backends: Sequence[Backend[Any]]
    rules: HttpRules
    bodies: BodyBudget
    certificates: Certificates | None

    async def prepare(self, settings: Settings, current: Config, wanted: Config) -> Callable[[], None]:
        """Make what `wanted` and `settings` need where `current` is in force, and change nothing.

        The function that it returns exchanges everything, and cannot fail. Models that are loaded keep the harness that
        has loaded them.
        """
        harnesses: list[Offer] = []
        if (wanted.models, wanted.harness) != (current.models, current.harness):
            harnesses = await make_harnesses(self.host, wanted, settings.environ, self.backends)
        access, endpoint = access_rules(wanted, self.sock), endpoint_url(wanted, self.sock)
        residency = ResidencyRules.from_config(wanted)
        registry = self.host.registry

        def exchange() -> None:
            for harness, aliases in harnesses:
                registry.register(harness, aliases=aliases)
            registry.set_residency(residency)
            registry.endpoint_url = endpoint
            registry.limits.drain_timeout_s = wanted.drain_timeout_secs
            registry.wait_for_load_s = wanted.load_wait_s
            self.host.model_aliases = wanted.http.model_aliases
            self.host.configured = configured_ids(wanted)
            self.host.has_page = wanted.http.page
            is_changed = settings.entrance.in_words() != self.host.entrance.rules.in_words()
            if is_changed or wanted.http.cors_origins != current.http.cors_origins:
                say_who_is_let_in(wanted, settings.entrance)
            self.host.entrance.replace(settings.entrance)
            self.rules.replace(access=access, cors_origins=wanted.http.cors_origins)
            self.bodies.limit_bytes = wanted.body_budget_mb << 20
            if self.certificates is not None and settings.tls is not None:
                self.certificates.context = settings.tls
            set_level(settings.log_level)

        return exchange


def say_who_is_let_in(config: Config, rules: EntranceRules) -> None:
    """Log whom the service lets in, and warn where that is everybody."""
    logger.info("%s", rules.in_words())
    if rules.trusted is not None and rules.trusted.has_every_address:
        logger.warning("`trusted_networks` has every address: whoever reaches this host may use it without a key")
    if ANY in config.http.cors_origins:
        logger.warning("`http.cors_origins` has *: any web page in a browser here may use this service")


async def make_harnesses(
    host: Host, config: Config, environ: Mapping[str, str], backends: Sequence[Backend[Any]]
) -> list[Offer]:
    """Make the harnesses. Each in a thread, because its imports take long and probes must be answered.

    Raises `ConfigError` that names a backend that cannot be made.
    """
    setup = HarnessSetup(
        models=config.models,
        environ=environ,
        gpu_memory_mb=host.gpu_memory_mb,
        max_prompt_tokens=config.max_prompt_tokens,
        ends_with_thread=True,
        read=read_socket,
        host_limit_bytes=lambda: host_memory_bytes(config.residency.memory_mb) if host.registry.makes_room else None,
        store=next(iter(store_settings(config).values()), None),
    )
    return [
        (await _made(backend, table, setup), backend.aliases)
        for backend, table in harness_tables(config, host.harnesses, backends)
    ]


async def _made(backend: Backend[Any], table: Any, setup: HarnessSetup) -> Harness:
    try:
        harness = await anyio.to_thread.run_sync(backend.make, table, setup)
        logger.debug("harness made", extra={"harness": harness.name})
    except Exception as error:  # a backend of another package may raise anything
        text = f"the backend {backend.name!r} in `harnesses` cannot be made: {cause_chain(error)}"
        raise ConfigError(text, harness=backend.name) from error
    return harness


def endpoint_url(config: Config, sock: socket.socket) -> str:
    """The address that a gateway is told for each model. The gateway puts the host that it knows in place of ours.

    A Unix socket has no port. A gateway needs the port of the proxy before it: that of HTTP, if nothing else is said.
    """
    if config.endpoint_url is not None:
        return config.endpoint_url.rstrip("/")
    scheme = "http" if config.tls_cert is None else "https"
    port = "" if sock.family == socket.AF_UNIX else f":{sock.getsockname()[1]}"
    return f"{scheme}://localhost{port}"


def configured_ids(config: Config) -> tuple[str, ...]:
    """The public ids of all models that the configuration names, in its order."""
    named = (*(spec.model_id for spec in config.default_models), *(entry.id for entry in config.models))
    return tuple(dict.fromkeys(map(public_id, named)))


def access_rules(config: Config, sock: socket.socket) -> AccessRules:
    """Which hosts and origins requests through `sock` may name."""
    return AccessRules.for_listener(
        sock,
        own_name=config.host,
        allowed_hosts=config.allowed_hosts,
        allowed_origins=(*config.allowed_origins, *config.http.cors_origins),
    )
