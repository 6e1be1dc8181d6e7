"""What a reload of the configuration changes in a service that runs. Pure: two configurations in, a plan out."""

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.config import Config
from neuron_lib.types import ModelSpec, public_id

__all__ = ("ReloadPlan", "plan_reload")

_AT_START_ONLY: Final = (
    "host",
    "port",
    "socket_mode",
    "log_format",
    "tracing",
    "harnesses",
    "residency",
    "max_prompt_tokens",
)
"""Keys of what is made once: the socket, the log, the backends, and the cap that a gateway remembers for ever."""


class ReloadPlan(Struct, frozen=True, kw_only=True):
    """What to do about a configuration that was read again.

    `config` is in force from now on: what was wanted, except that the keys of `needs_restart` keep their values.
    `added` are the default models to load. `needs_restart` names the keys, or entries, whose new values count after a
    restart only.
    """

    config: Config
    added: tuple[ModelSpec, ...]
    needs_restart: tuple[str, ...]


def plan_reload(current: Config, wanted: Config) -> ReloadPlan:
    """The plan that leads from the configuration in force to the one that was read.

    A default model that is not wanted any more stays loaded, and a changed entry of one that was there before changes
    nothing: a reload touches no model that is loaded.
    """
    waiting: dict[str, Any] = {
        key: getattr(current, key) for key in _AT_START_ONLY if getattr(current, key) != getattr(wanted, key)
    }
    if (current.tls_cert is None) != (wanted.tls_cert is None):
        waiting |= {key: getattr(current, key) for key in ("tls_cert", "tls_key", "tls_client_ca")}
    known = {public_id(spec.model_id): spec for spec in current.default_models}
    changed = [
        f"default_models of {public_id(spec.model_id)}"
        for spec in wanted.default_models
        if known.get(public_id(spec.model_id), spec) != spec
    ]
    added = tuple(spec for spec in wanted.default_models if public_id(spec.model_id) not in known)
    names = [key for key in waiting if key not in {"tls_key", "tls_client_ca"}]
    return ReloadPlan(
        config=replace(wanted, **waiting, default_models=(*current.default_models, *added)),
        added=added,
        needs_restart=(*names, *changed),
    )
