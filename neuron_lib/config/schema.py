"""What an operator can set: names, defaults and bounds.

Knows no backend: the table of a backend below `[harness]` is a struct that the backend brings along (`load.Section`).
Resolves nothing: no directory is created, no secret is read (only names of variables are kept), no id is looked up.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_interface, ip_network
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta, Struct

from neuron_lib.config.values import (
    AnyPath,
    Endpoint,
    EnvName,
    HostName,
    IdleSeconds,
    ListenHost,
    LogLevel,
    ModelName,
    Origin,
    Place,
    PublicId,
    Repository,
    Requests,
    Revision,
    Seconds,
    SocketMode,
    keep_as_paths,
    unix_path,
)
from neuron_lib.types import HUB_SCHEME, CommonSampling, ModelSpec, take_apart
from neuron_lib.types.context import SomeTokens, Tokens
from neuron_lib.types.models import Devices
from neuron_lib.types.sampling import LastTokens, RepetitionPenalty

__all__ = (
    "AdmissionConfig",
    "Config",
    "ContextLimitConfig",
    "DownloadConfig",
    "HarnessEntry",
    "HttpConfig",
    "ModelEntry",
    "PromptCacheConfig",
    "ResidencyConfig",
    "SamplingConfig",
    "SourceConfig",
    "StoreSettings",
    "TracingConfig",
    "schemes_of",
    "store_settings",
)

_WAIT_ON_DEMAND_S: Final = 240.0
"""Less than the 300 s after which a gateway gives up."""


class HarnessEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[harnesses]]` entry: a harness to offer, by name.

    `kind` is the name of the backend that makes the harness. None means the backend that has the harness's own name. A
    backend of which a host may have several harnesses brings along a struct for its entries, which is made of this one.
    """

    name: str
    kind: str | None = None


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[models]]` entry: where a public id `org/name` really comes from, and how to load it.

    A model comes from one place at most: `repo` is `[source:]org/name[:quant]` on a hub, `path` is a GGUF file, or the
    folder of a model in another format, on this machine, `package` is a file inside an installed Python package
    (`package/inner/file.gguf`). Without any of them the default source is asked for the id itself. `quant`, `revision`
    and `n_ctx` (tokens of one request) are used where the load asks for none. `chat_template` is a file with a Jinja
    template to use instead of the model's own; the file is read when the model loads. `tool_format` is the name of the
    format of tool calls to use instead of the one that the template asks for. `harness` is the one to load the model
    with where a load names none.

    `devices` are GPU indices for a load on demand, as in `ModelSpec`. A model with `pin` is unloaded only if somebody
    asks for that. `idle_ttl_secs` takes the place of the one in `[residency]`; 0 lets the model be idle for ever.

    `path` and `chat_template` are absolute, because the working directory of a daemon is arbitrary. A program may
    give them as text. Raises ValueError where an entry contradicts itself.
    """

    id: PublicId
    repo: Repository | None = None
    path: AnyPath | None = None
    package: Annotated[str, Meta(min_length=1)] | None = None
    quant: str | None = None
    revision: Revision | None = None
    n_ctx: Tokens | None = None
    chat_template: AnyPath | None = None
    tool_format: Annotated[str, Meta(min_length=1)] | None = None
    harness: Annotated[str, Meta(min_length=1)] | None = None
    devices: Devices | None = None
    pin: bool = False
    idle_ttl_secs: IdleSeconds | None = None

    def __post_init__(self) -> None:
        keep_as_paths(self, "path", "chat_template")
        places = [name for name in ("repo", "path", "package") if getattr(self, name) is not None]
        if len(places) > 1:
            msg = f"`{self.id}` has {' and '.join(f'`{name}`' for name in places)}; a model comes from one place"
            raise ValueError(msg)
        if self.pin and self.idle_ttl_secs:
            msg = f"`{self.id}` has `pin`, so it is never idle for too long: leave `idle_ttl_secs` out"
            raise ValueError(msg)
        for name in ("quant", "revision"):
            if getattr(self, name) is not None and places not in ([], ["repo"]):
                msg = f"`{self.id}` has a `{name}`, which means nothing beside `{places[0]}`"
                raise ValueError(msg)
        if self.quant is not None and self.repo is not None and take_apart(self.repo).quant is not None:
            msg = f"`{self.id}` names a quant in `repo` and one in `quant`; keep one"
            raise ValueError(msg)
        for name in ("path", "chat_template"):
            file = getattr(self, name)
            if file is not None and not file.is_absolute():
                msg = f"`{self.id}` has the relative `{name}` '{file}', which must be absolute"
                raise ValueError(msg)


class SourceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hub that speaks the Hugging Face protocol. `auth_env` names the variable that holds its bearer token."""

    endpoint: Endpoint
    auth_env: EnvName | None = None
    cache_dir: AnyPath | None = None

    def __post_init__(self) -> None:
        keep_as_paths(self, "cache_dir")


class DownloadConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a download may take.

    A download that is slower than `min_kb_per_s` (KiB a second) for `min_rate_window_secs` has failed, and is worth a
    retry; 0 allows any rate. `deadline_secs` bounds everything from the first question to a hub to the last checksum.
    `parallel` is how many files of one model are read at the same time. `max_fetches` is how many models are fetched at
    the same time: other loads wait in order, and their deadline begins when their fetch begins.
    """

    deadline_secs: Annotated[float, Meta(ge=1, le=604_800)] = 43_200.0
    min_kb_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 10.0
    min_rate_window_secs: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    parallel: Annotated[int, Meta(ge=1, le=32)] = 4
    max_fetches: Annotated[int, Meta(ge=1, le=64)] = 2


class HttpConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[http]`: what certain clients of the service need.

    `cors_origins` are the origins of web pages that may use the whole service from a browser, and read its answers;
    `*` allows every page. `model_aliases` are further names that a request may give a model, each with the id that it
    stands for. A name is compared byte by byte, and counts before an id. With `page` there is a page for people at `/`.
    """

    cors_origins: tuple[Origin, ...] = ()
    model_aliases: Mapping[ModelName, Repository] = msgspec.field(default_factory=dict)
    page: bool = True


class ResidencyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[residency]`: what the host does by itself about the models that it has in memory.

    With `on_demand` a request to a configured model that is not loaded loads the model, and each load makes room: it
    unloads idle models, the least recently used first, until the new one fits. `memory_mb` is how much of the host's
    memory all models together may take, in MiB; 0 is nine tenths of what the host or its control group has. A model
    stays at least `min_resident_secs`. `idle_ttl_secs` unloads a model that no request has used for so long; 0 never
    does. After a failed load the next one on demand waits for `cool_down_secs`, and twice as long after each further
    failure, up to 300 s. Each list in `exclusive` has ids of which at most one is loaded at a time.
    """

    on_demand: bool = False
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    min_resident_secs: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    idle_ttl_secs: IdleSeconds = 0.0
    cool_down_secs: Annotated[float, Meta(ge=1, le=300)] = 10.0
    exclusive: Annotated[tuple[Annotated[tuple[PublicId, ...], Meta(max_length=256)], ...], Meta(max_length=256)] = ()


class TracingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[tracing]`. `otlp_endpoint` is the address of a collector that takes spans by OTLP over HTTP, without
    the path `/v1/traces`. None leaves it to the variables of OpenTelemetry.
    """

    otlp_endpoint: Endpoint | None = None


class AdmissionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests of one model may run, how many may wait, and for how long.

    `neuron_lib.admission.AdmissionRules` says what the keys mean. The cells for `kv_reply_tokens` tokens of each reply
    are reserved before its request begins, or for fewer if the request asks for fewer.
    """

    max_in_flight: Annotated[int, Meta(ge=1, le=256)] = 8
    max_queue_depth: Annotated[int, Meta(ge=0, le=100_000)] = 32
    max_wait_secs: Seconds = 30.0
    kv_max_wait_secs: Seconds = 240.0
    kv_reply_tokens: Tokens = 1024
    max_per_principal: Requests | None = None
    anon_max_in_flight: Requests | None = None
    anon_max_pending: Requests | None = None


class ContextLimitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a prompt may be, by the time that reading the prompt takes.

    If `enabled`, a prompt may have as many tokens as the engine reads within `target_prefill_latency_secs` at the speed
    that was measured, and at least 4096. Before a measurement there is no such limit.
    """

    enabled: bool = True
    target_prefill_latency_secs: Annotated[float, Meta(ge=1, le=3600)] = 120.0

    @property
    def target_s(self) -> float:
        """The target in seconds, 0.0 if there is none."""
        return self.target_prefill_latency_secs if self.enabled else 0.0


class SamplingConfig(CommonSampling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are chosen where neither the request nor the model says so. None leaves a parameter off.

    `max_tokens` bounds the tokens of a reply whose request gives no bound.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.7
    repetition_penalty: RepetitionPenalty = 1.1
    repeat_last_n: LastTokens = 64
    max_tokens: SomeTokens = 8192


class PromptCacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the tokens of earlier requests are kept, so that a prompt that begins like them is not computed again.

    `host_mb` bounds, in MiB, what is moved to the host's memory when the context is full; 0 moves nothing there. With
    `isolate_principals` nothing is shared between accounts: the keys of one account share, and so do all anonymous
    requests.
    """

    enabled: bool = True
    host_mb: Annotated[int, Meta(ge=0, le=1 << 24)] = 1024
    isolate_principals: bool = False


@runtime_checkable
class StoreSettings(Protocol):
    """The part of a backend's table that says where model files come from. Every backend that fetches models has it.

    `sources` are the hubs by the name that a model id may begin with. `hf_cache` is the cache of the sources that name
    none. `local_roots` are the only directories that the `path` of a model may be in; None allows every directory.
    """

    @property
    def hf_cache(self) -> AnyPath | None: ...
    @property
    def default_source(self) -> str: ...
    @property
    def sources(self) -> Mapping[str, SourceConfig]: ...
    @property
    def download(self) -> DownloadConfig: ...
    @property
    def local_roots(self) -> Sequence[AnyPath] | None: ...


def schemes_of(sections: Iterable[object]) -> frozenset[str]:
    """The sources that a model id may name: those of the backends' tables, and the hub, which is always there."""
    return frozenset({HUB_SCHEME}).union(*(each.sources for each in sections if isinstance(each, StoreSettings)))


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. `harness` has the table of each backend, by the name of the backend.

    `port` 0 takes any free port. `allowed_hosts` are the names and addresses that requests may name as their host,
    beside those of the loopback interface; `*` allows any. Where it is empty, a server on a loopback address allows no
    others, and a server on another address allows any. `allowed_origins` are origins, beside the server's own and those
    of `http.cors_origins`, whose requests may change something. No browser lets a page of them read an answer.

    A `host` that is `unix:` and an absolute path is a Unix socket, which has no port. Its file has the permissions
    `socket_mode`. `tls_cert` and `tls_key` are files in PEM, and only both together: the service then speaks HTTPS
    alone. With `tls_client_ca` every client needs a certificate of one of the authorities in that file. `endpoint_url`
    is the address that a gateway is told for each model, where it is not that of the listener, as behind a proxy.
    `body_budget_mb` bounds the memory in MiB that the bodies of all requests take together. `log_level` counts where
    neither the command line nor `NEURON_LOG` names a level.

    `keys_file` has the API keys of callers (`neuron key new`). Callers from `trusted_networks` need no key, and what a
    gateway there says about who asks is believed. `loopback` are the programs of this machine; `private` are the
    networks that the internet does not reach; `user:NAME` is a user of this machine on a Unix socket. What
    `trusted_proxies` write in X-Forwarded-For counts.

    `log_format` is how the service writes its log: lines for people, or a JSON object for each record.

    `drain_timeout_secs` bounds how long a stop waits for replies. Unloading and the last answers get 25 s more, so that
    a stop is over before the `TimeoutStopSec` of the systemd unit, 120 s. In the first `drain_notice_secs` of the drain
    requests are still taken, so that gateways that poll can go elsewhere before one is refused.

    A chat with a model that is being loaded, or will be, waits up to `wait_for_load_secs` for it; 0 refuses it at once.
    None is `load_wait_s`'s choice.
    """

    host: ListenHost = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 13131
    socket_mode: SocketMode = "0660"
    tls_cert: AnyPath | None = None
    tls_key: AnyPath | None = None
    tls_client_ca: AnyPath | None = None
    endpoint_url: Endpoint | None = None
    body_budget_mb: Annotated[int, Meta(ge=4, le=1 << 20)] = 128
    log_level: LogLevel = "info"
    allowed_hosts: tuple[HostName, ...] = ()
    allowed_origins: tuple[Origin, ...] = ()
    keys_file: AnyPath | None = None
    trusted_networks: Annotated[tuple[Place, ...], Meta(max_length=1000)] = ("loopback", "private")
    trusted_proxies: Annotated[tuple[Place, ...], Meta(max_length=1000)] = ()
    http: HttpConfig = HttpConfig()
    log_format: Literal["text", "json"] = "text"
    tracing: TracingConfig = TracingConfig()
    harnesses: tuple[HarnessEntry, ...] = (HarnessEntry("llamacpp"),)
    default_models: tuple[ModelSpec, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    residency: ResidencyConfig = ResidencyConfig()
    harness: Mapping[str, Any] = msgspec.field(default_factory=dict)
    drain_timeout_secs: Annotated[float, Meta(ge=0, le=90)] = 60.0
    drain_notice_secs: Annotated[float, Meta(ge=0, le=90)] = 0.0
    wait_for_load_secs: Annotated[float, Meta(ge=0, le=3600)] | None = None
    max_prompt_tokens: SomeTokens = 16384

    def __post_init__(self) -> None:
        files = ("keys_file", "tls_cert", "tls_key", "tls_client_ca")
        keep_as_paths(self, *files)
        self._check_tls()
        if self.drain_notice_secs > self.drain_timeout_secs:
            notice, drain = self.drain_notice_secs, self.drain_timeout_secs
            msg = (
                f"`drain_notice_secs`: {notice:g} is more than `drain_timeout_secs` ({drain:g}), of which it is a part"
            )
            raise ValueError(msg)
        for name in files:
            file = getattr(self, name)
            if file is not None and not file.is_absolute():
                msg = f"`{name}`: the relative path '{file}' must be absolute"
                raise ValueError(msg)
        for name in ("trusted_networks", "trusted_proxies"):
            _require_networks(name, getattr(self, name))
        ids = [entry.id for entry in self.models]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            msg = f"`models` gives {', '.join(twice)} more than one place"
            raise ValueError(msg)
        known = schemes_of(self.harness.values())
        for index, entry in enumerate(self.models):
            scheme = take_apart(entry.repo or "").scheme
            if scheme is not None and scheme not in known:
                msg = f"`models[{index}].repo` names the source `{scheme}`; configured: {', '.join(sorted(known))}"
                raise ValueError(msg)

    @property
    def load_wait_s(self) -> float:
        """How long a chat waits for its model: `wait_for_load_secs`, or else 240 s on a host that loads on demand.

        Any other host has a gateway that knows where to ask next, so a chat does not wait there.
        """
        if self.wait_for_load_secs is not None:
            return self.wait_for_load_secs
        return _WAIT_ON_DEMAND_S if self.residency.on_demand else 0.0

    def _check_tls(self) -> None:
        given = [name for name in ("tls_cert", "tls_key", "tls_client_ca") if getattr(self, name) is not None]
        missing = [f"`{name}`" for name in ("tls_cert", "tls_key") if name not in given]
        if given and missing:
            msg = f"`{given[-1]}` needs {' and '.join(missing)}, which the configuration does not have"
            raise ValueError(msg)
        if given and unix_path(self.host) is not None:
            msg = f"`{given[0]}` means nothing for a Unix socket, whose clients are on this machine"
            raise ValueError(msg)


def _require_networks(key: str, places: Sequence[str]) -> None:
    """Raises ValueError for an entry that looks like a network and is none."""
    for index, place in enumerate(places):
        if place in {"loopback", "private"} or place.startswith("user:"):
            continue
        try:
            network, address = ip_network(place, strict=False), ip_interface(place).ip
        except ValueError as error:
            msg = f"`{key}[{index}]`: {error}"
            raise ValueError(msg) from None
        if network.network_address != address:
            msg = f"`{key}[{index}]`: '{place}' is no network: write '{network}' or '{address}'"
            raise ValueError(msg)


def store_settings(config: Config) -> dict[str, StoreSettings]:
    """Where models come from, by the name of the backend that fetches them, in the order of the backends."""
    return {name: table for name, table in config.harness.items() if isinstance(table, StoreSettings)}
