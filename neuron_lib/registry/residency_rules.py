"""What a host may do by itself about its models: load them on demand, make room for them, unload idle ones.

Holds rules and decides nothing; `making_room` decides.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final, Self

from msgspec import Struct

from neuron_lib.config import Config
from neuron_lib.registry.making_room import House, Needs
from neuron_lib.types import ModelSpec, names_model, public_id

__all__ = ("ModelRules", "ResidencyRules")

_SHORTEST_STAY_S: Final = 1.0
"""Requests that have waited for a load get into the model within this time, before it is made to go."""


class ModelRules(Struct, frozen=True, kw_only=True):
    """The rules of one model. `idle_limit_s` is how long it may be idle before it is unloaded, None for ever.

    A pinned model is unloaded only if somebody asks for that.
    """

    is_pinned: bool = False
    idle_limit_s: float | None = None


class ResidencyRules(Struct, frozen=True, kw_only=True):
    """The rules of one host. Without any of them a host does nothing by itself.

    With `makes_room` a load that does not fit waits until idle models have been unloaded for it. Then a request to a
    model of `on_demand` that is not here loads the model. Of each set of ids in `exclusive` at most one model is here.
    No model is unloaded to make room within `min_resident_s` of its load, which is at least a second. After a failed
    load the next one on demand waits for `cool_down_s`, and twice as long after each further failure, up to 300 s.
    `models` has the rules of single models by public id, and `default` those of all others.
    """

    makes_room: bool = False
    on_demand: tuple[ModelSpec, ...] = ()
    exclusive: tuple[frozenset[str], ...] = ()
    min_resident_s: float = 30.0
    cool_down_s: float = 10.0
    default: ModelRules = ModelRules()
    models: Mapping[str, ModelRules] = {}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The rules of the table `[residency]` and of the entries of `[[models]]`.

        A model on demand is one of `[[default_models]]`, with that entry's spec, or one of `[[models]]`, with the
        harness that it names, or else the only one of the host. On a host with several the format of its files decides.
        """
        table = config.residency
        usual = ModelRules(idle_limit_s=table.idle_ttl_secs or None)
        specs = {public_id(spec.model_id): spec for spec in reversed(config.default_models)}
        if config.harnesses:
            only = config.harnesses[0].name if len(config.harnesses) == 1 else None
            for entry in config.models:
                spec = ModelSpec(model_id=entry.id, harness=entry.harness or only, devices=entry.devices)
                specs.setdefault(entry.id, spec)
        return cls(
            makes_room=table.on_demand,
            on_demand=tuple(specs.values()) if table.on_demand else (),
            exclusive=tuple(map(frozenset, table.exclusive)),
            min_resident_s=table.min_resident_secs,
            cool_down_s=table.cool_down_secs,
            default=usual,
            models={
                entry.id: ModelRules(
                    is_pinned=entry.pin,
                    idle_limit_s=usual.idle_limit_s if entry.idle_ttl_secs is None else entry.idle_ttl_secs or None,
                )
                for entry in config.models
                if entry.pin or entry.idle_ttl_secs is not None
            },
        )

    @property
    def do_nothing(self) -> bool:
        """Whether no rule can ever make a host act."""
        return not self.makes_room and all(
            rules.idle_limit_s is None for rules in (self.default, *self.models.values())
        )

    def of(self, spec: ModelSpec) -> ModelRules:
        """The rules of a model that was loaded by `spec`."""
        for id_, rules in self.models.items():
            if _is_meant(id_, spec):
                return rules
        return self.default

    def idle_limit_s(self, rules: ModelRules, *, keep_alive_s: float | None, stayed_s: float) -> float | None:
        """How long a model with these rules may be idle, None for ever.

        `keep_alive_s` is what the last request asked for, which counts before the rules; None for nothing. It does not
        make a model go before the minimum residence, of which `stayed_s` were over when the model was used last.
        """
        if keep_alive_s is None:
            return None if rules.idle_limit_s is None else max(rules.idle_limit_s, _SHORTEST_STAY_S)
        return None if math.isinf(keep_alive_s) else max(keep_alive_s, self._least_stay_s - stayed_s)

    @property
    def _least_stay_s(self) -> float:
        return max(self.min_resident_s, _SHORTEST_STAY_S)

    def loadable(self, model_id: str) -> ModelSpec | None:
        """The spec of the model on demand that `model_id` means, in any spelling. None if there is none."""
        id_ = public_id(model_id)
        for spec in self.on_demand:
            if public_id(spec.model_id) == id_:
                return spec
        meant = [spec for spec in self.on_demand if names_model(model_id, public_id(spec.model_id), quant=spec.quant)]
        return meant[0] if len(meant) == 1 else None

    def house(self, capacity: Needs, specs: Iterable[ModelSpec]) -> House:
        """What the models of these specs share, by the ids of the specs."""
        known = tuple(specs) if self.exclusive else ()
        groups = (
            frozenset(public_id(spec.model_id) for spec in known if any(_is_meant(id_, spec) for id_ in group))
            for group in self.exclusive
        )
        return House(capacity=capacity, exclusive=tuple(groups), min_resident_s=self._least_stay_s)


def _is_meant(id_: str, spec: ModelSpec) -> bool:
    """Whether a rule for `id_` is a rule for the model that is loaded by `spec`."""
    return id_ == public_id(spec.model_id) or names_model(id_, public_id(spec.model_id), quant=spec.quant)
