"""What a model can serve at all, however idle it is. Pure.

One function refuses requests, and says whether a model is servable.
"""

from typing import Final

from msgspec import Struct

from neuron_lib.errors import InvalidRequest, PromptTooLong, RequestRejected, TooLargeForKv

__all__ = ("MINIMAL", "Capacity", "Need")


class Need(Struct, frozen=True, kw_only=True):
    """What one request takes: seats, the tokens of its longest prompt, and cells.

    `param` names the text of the request that has the longest prompt, None for the messages of a chat.
    """

    seats: int = 1
    prompt_tokens: int = 1
    cells: int = 0
    param: str | None = None


class Capacity(Struct, frozen=True, kw_only=True):
    """What an idle model has. None sets no bound.

    `prompt_tokens` is the most that a prompt may have. `cells` are all cells of the model, of `cell_bytes` each.
    """

    seats: int | None = None
    prompt_tokens: int | None = None
    cells: int | None = None
    cell_bytes: int = 0

    def refusal(self, need: Need) -> RequestRejected | None:
        """Why a request with this need can never be served here, not even alone; None if it can.

        `InvalidRequest`, `PromptTooLong` or `TooLargeForKv`.
        """
        if self.seats is not None and not 1 <= need.seats <= self.seats:
            text = f"n: {need.seats} replies to one request, where this model makes 1 to {self.seats} at once"
            return InvalidRequest(text, param="n")
        if self.prompt_tokens is not None and need.prompt_tokens > self.prompt_tokens:
            return PromptTooLong(prompt_tokens=need.prompt_tokens, limit=self.prompt_tokens, param=need.param)
        if self.cells is not None and need.cells > self.cells:
            text = (
                f"the prompt and its replies need {need.cells} KV cells at once, and this model has {self.cells}: ask "
                "for fewer or shorter replies, or shorten the prompt"
            )
            return TooLargeForKv(text, required_mb=self.mib(need.cells), budget_mb=self.mib(self.cells))
        return None

    def mib(self, cells: int) -> int:
        """The memory of so many cells in MiB, rounded up, so that only no cells are 0."""
        return -(-cells * self.cell_bytes // (1 << 20))


MINIMAL: Final = Need(cells=2)
"""The smallest request: a prompt of one token, and a reply of one."""
