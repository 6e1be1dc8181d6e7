"""Which requests an engine works on. Pure: whoever owns it tells it every command, and every report of the engine."""

from dataclasses import dataclass, field

from neuron_lib.engine.protocol import (
    Broken,
    Cancelled,
    Command,
    Done,
    Prepare,
    Prepared,
    Refused,
    Report,
    Start,
    StepEvents,
)
from neuron_lib.types import Grammar

__all__ = ("InHand",)


@dataclass(slots=True)
class InHand:
    """Requests that were started and have not ended, and the one that is being prepared.

    Others whose preparation was asked for stand in line before the engine, which has not touched them. A cancel ends
    nothing by itself: the engine may be inside of what is cancelled, and die of it.
    """

    _preparing: dict[int, Grammar | None] = field(default_factory=dict)  # the oldest first
    _choices_left: dict[int, int] = field(default_factory=dict)  # of what was started

    @property
    def requests(self) -> frozenset[int]:
        """Their numbers. An engine that ends has ended with these."""
        # Prompts are read one after another, but grammars are compiled aside, while the next prompt is read.
        oldest = list(self._preparing)[:1]
        oldest_unbound = [request for request, grammar in self._preparing.items() if grammar is None][:1]
        return frozenset({*self._choices_left, *oldest, *oldest_unbound})

    def knows(self, request: int) -> bool:
        """Whether it is or will be in hand, as far as has been told."""
        return request in self._preparing or request in self._choices_left

    def tell(self, command: Command) -> None:
        """Take a command to the engine."""
        match command:
            case Prepare():
                self._preparing[command.request] = command.grammar
            case Start():
                self._choices_left[command.request] = command.choices

    def hear(self, report: Report) -> None:
        """Take a report of the engine."""
        match report:
            case StepEvents(_, events):
                for event in events:
                    if isinstance(event, Done):
                        self._end_choice(event.request)
                    elif isinstance(event, Broken):
                        self._choices_left.pop(event.request, None)
            case Prepared() | Refused():
                self._preparing.pop(report.request, None)
            case Cancelled(request):
                self._preparing.pop(request, None)
                self._choices_left.pop(request, None)

    def _end_choice(self, request: int) -> None:
        left = self._choices_left.pop(request, 1) - 1
        if left > 0:
            self._choices_left[request] = left
