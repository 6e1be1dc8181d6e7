"""Everything that the service reads when it starts, as one value. Holds it and decides nothing."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from neuron_lib.config import Config

__all__ = ("Settings",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the file, the environment, the command line and the files that they name say together, checked.

    `environ` is the environment with the tokens that systemd passed as credentials. `tls` is None for plain HTTP.
    """

    config: Config
    environ: Mapping[str, str]
    log_level: str
    tls: ssl.SSLContext | None = None
