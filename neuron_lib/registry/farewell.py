"""What a host that stops says of its models."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from neuron_lib.types import ModelInfo, ModelStatus

__all__ = ("Farewell",)


class Farewell:
    """The models that are listed after `announce_stop`: those that served then, until the registry is left."""

    def __init__(self, models: Iterable[ModelInfo], loaded_unix_s: Mapping[str, int]) -> None:
        # `servable` false would mean that another host should load them.
        self.models: tuple[ModelInfo, ...] = tuple(
            replace(info, status=ModelStatus.RECOVERING, servable=None) for info in models
        )
        self.loaded_unix_s = loaded_unix_s
