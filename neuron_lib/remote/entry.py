"""What an operator says about a harness of the kind `remote`: one `[[harnesses]]` entry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.config import AdmissionConfig, HarnessEntry
from neuron_lib.config.values import AnyPath, Endpoint, EnvName, PublicId, Scheme, keep_as_paths
from neuron_lib.errors import LoadFailed
from neuron_lib.types import ModelSpec, public_id
from neuron_lib.types.context import Tokens
from neuron_lib.upstream.address import UpstreamAddress

__all__ = ("ApiName", "Health", "RemoteEntry", "RemoteModel", "refuse_what_another_host_decides")

ApiName: TypeAlias = Literal["auto", "neuron", "openai", "llama-server", "llama-cpp-python", "vllm", "sglang", "other"]
_Capability: TypeAlias = Literal["text", "vision", "embeddings", "rerank"]
_ModelName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1000)]
_Limit: TypeAlias = Annotated[float, Meta(ge=0.1, le=86_400)]

_WITHOUT_MEANING: Final = ("quant", "tensor_parallel", "devices")


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server is asked for its models each `interval_secs`. A server that gives no good answer for `limit_secs` is
    lost. One that cannot be reached, refuses the key, or has the model no more, is lost at the second look.
    """

    interval_secs: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    limit_secs: _Limit = 30.0


class RemoteModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server does not say about one model: its name there, what it can do, and its context in tokens."""

    model_name: _ModelName | None = None
    capabilities: tuple[_Capability, ...] | None = None
    context: Tokens | None = None


class RemoteEntry(HarnessEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[harnesses]]` entry with `kind = "remote"`: another server, at the address `url`, with or without `/v1`.

    The key for it is in the variable `api_key_env` or in the file `api_key_file`. The file is read at each load, and
    again when the server is lost. `ca_file` has the authorities, in PEM, whose certificates are believed in place of
    those of the system. `api` is what the server understands; `auto` finds that out. A model has the same name there as
    here, if `models` gives it no other one.

    A connection may take `connect_timeout_secs`. A server that sends nothing for `silence_timeout_secs` has failed, and
    so has one that takes longer than `reply_timeout_secs` for one reply. `admission` is as that of llama.cpp, and
    bounds what this host sends.
    """

    name: Scheme
    kind: Literal["remote"]
    url: Endpoint
    api_key_env: EnvName | None = None
    api_key_file: AnyPath | None = None
    ca_file: AnyPath | None = None
    api: ApiName = "auto"
    models: Mapping[PublicId, RemoteModel] = msgspec.field(default_factory=dict)
    connect_timeout_secs: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    silence_timeout_secs: _Limit = 300.0
    reply_timeout_secs: Annotated[float, Meta(ge=1, le=86_400)] = 3600.0
    health: Health = Health()
    admission: AdmissionConfig = AdmissionConfig()

    def __post_init__(self) -> None:
        keep_as_paths(self, "api_key_file", "ca_file")
        if self.api_key_env is not None and self.api_key_file is not None:
            msg = f"the harness `{self.name}` has `api_key_env` and `api_key_file`; keep one"
            raise ValueError(msg)
        for name in ("api_key_file", "ca_file"):
            file = getattr(self, name)
            if file is not None and not Path(file).is_absolute():
                msg = f"the harness `{self.name}` has the relative `{name}` '{file}', which must be absolute"
                raise ValueError(msg)
        if self.ca_file is not None and not self.url.startswith("https:"):
            msg = f"the harness `{self.name}` has a `ca_file`, which means nothing for an address without https"
            raise ValueError(msg)
        usual = AdmissionConfig()
        for key in ("kv_max_wait_secs", "kv_reply_tokens"):
            if getattr(self.admission, key) != getattr(usual, key):
                msg = f"`admission.{key}` means nothing here: a server counts its cells itself"
                raise ValueError(msg)
        self.address(model="", token="")  # raises for an address that is none

    def address(self, *, model: str, token: str) -> UpstreamAddress:
        """Where the server is. `model` is its name for the model."""
        return UpstreamAddress(url=self.url.rstrip("/").removesuffix("/v1"), model=model, token=token)


def refuse_what_another_host_decides(spec: ModelSpec) -> None:
    """Raise `LoadFailed` for a spec that asks for files or devices."""
    for name in _WITHOUT_MEANING:
        if getattr(spec, name) is not None:
            text = f"{name}: the model is at another host, which decides this"
            raise LoadFailed(text, model_id=public_id(spec.model_id))
