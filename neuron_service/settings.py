"""Everything that the service reads when it starts, as one value. Holds it and decides nothing."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuron_lib.config import Config
from neuron_service.access.entrance import EntranceRules

__all__ = ("Settings",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the file, the environment, the command line and the files that they name say together, checked.

    `environ` is the environment with the tokens that systemd passed as credentials. `entrance` says who is let in, with
    which keys. `tls` is None for plain HTTP.
    """

    config: Config
    environ: Mapping[str, str]
    log_level: str
    entrance: EntranceRules = field(default_factory=EntranceRules)
    tls: ssl.SSLContext | None = None
