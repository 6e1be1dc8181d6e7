"""The models of one host, by their public ids and by the other ids that mean them. Holds them; moves none."""

from neuron_lib.harness import LoadedModel
from neuron_lib.residence import Residence
from neuron_lib.types import ModelSpec, names_model, public_id, take_apart

__all__ = ("Residences",)


class Residences(dict[str, Residence]):
    """The models that are loading, serving or leaving, by their public ids."""

    def find(self, model_id: str) -> Residence | None:
        """The model of that id; else the only one that the id means in other words, such as without the quant."""
        residence = self.get(public_id(model_id))
        if residence is not None:
            return residence
        meant = [r for r in self.values() if names_model(model_id, r.model_id, quant=r.spec.quant)]
        return meant[0] if len(meant) == 1 else None

    def find_same(self, spec: ModelSpec, model_id: str) -> Residence | None:
        """The model that makes a load of `spec` needless: of the same id, or of the same repository and quant."""
        quant = take_apart(model_id).quant or spec.quant
        if quant is None or model_id in self:
            return self.get(model_id)
        return self.find(f"{take_apart(model_id).path}:{quant}")

    def find_serving(self, model_id: str) -> tuple[Residence, LoadedModel] | None:
        """The model that `find` finds, if it serves."""
        residence = self.find(model_id)
        if residence is None or residence.model is None or not residence.is_serving:
            return None
        return residence, residence.model

    def serving(self) -> list[LoadedModel]:
        """The models that serve."""
        return [r.model for r in self.values() if r.model is not None and r.is_serving]
