"""The rule for directories in the configuration of a service."""

from collections.abc import Mapping
from pathlib import Path

from neuron_lib.config import StoreSettings
from neuron_lib.errors import ConfigError

__all__ = ("require_absolute_directories",)


def require_absolute_directories(stores: Mapping[str, StoreSettings]) -> None:
    """Raises `ConfigError` for a relative directory, whose meaning would depend on where the service is started.

    `stores` are the settings by the name of their backend.
    """
    for name, store in stores.items():
        directories = {
            "hf_cache": store.hf_cache,
            **{f"sources.{scheme}.cache_dir": source.cache_dir for scheme, source in store.sources.items()},
            **{f"local_roots[{index}]": root for index, root in enumerate(store.local_roots or ())},
        }
        for key, directory in directories.items():
            if directory is not None and not Path(directory).is_absolute():
                place = f"harness.{name}.{key}"
                raise ConfigError(f"`{place}`: the relative path '{directory}' must be absolute", key=place)
