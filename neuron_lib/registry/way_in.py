"""The way of a request to its model: whether the model serves, whether to wait for it, or why it does not serve."""

from collections.abc import Callable

import anyio

from neuron_lib.errors import ModelLoading, ShuttingDown
from neuron_lib.registry.absent_models import AbsentModels
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.hosted_models import HostedModels
from neuron_lib.registry.residency import COOLING_DOWN, NotServing, Residency

__all__ = ("WayIn",)


class WayIn:
    """Finds the model of each request. Lives as long as its registry. Has no state of its own."""

    def __init__(
        self,
        models: HostedModels,
        absent: AbsentModels,
        residency: Residency,
        *,
        is_leaving: Callable[[], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        """`is_leaving` says whether the registry admits no more loads, and `is_stopping` no more requests either."""
        self._models = models
        self._absent = absent
        self._residency = residency
        self._is_leaving = is_leaving
        self._is_stopping = is_stopping

    async def find(self, model_id: str, *, wait_s: float, keep_alive_s: float | None) -> HostedModel:
        """The model, after waiting up to `wait_s` for the end of its load. Raises why it does not serve.

        A model on demand that is not here is loaded. The model stays for `keep_alive_s` after its last request.
        """
        self._residency.require_keep_alive(keep_alive_s)
        found = self.look(model_id)
        if not isinstance(found, HostedModel):
            with self._residency.waiting(model_id), anyio.move_on_after(wait_s):
                while not self._is_leaving() and self._will_serve(model_id):
                    await self._absent.next_change(self._models.find(model_id), self._models.changes)
            found = self.look(model_id)
        if self._is_stopping() or (self._is_leaving() and not isinstance(found, HostedModel)):
            raise ShuttingDown
        if not isinstance(found, HostedModel):
            raise found
        found.keep_alive_s = keep_alive_s
        return found

    def _will_serve(self, model_id: str) -> bool:
        """Whether to wait for the model. Puts the load of a model on demand into the line."""
        if not self._absent.activation_awaits(model_id):
            self._residency.want(model_id)
        found = self.look(model_id)
        return isinstance(found, ModelLoading) and found.stage != COOLING_DOWN

    def look(self, model_id: str) -> HostedModel | NotServing:
        """The model if it serves, otherwise the refusal of a request to it. Only looks: nothing is loaded."""
        model = self._models.find(model_id)
        if model is not None and model.serves and self._residency.admits(model):
            return model
        if model is None or not model.is_loading:
            reason = self._residency.explain(model_id)
            if reason is not None:
                return reason
        return self._absent.explain(model_id, model)
