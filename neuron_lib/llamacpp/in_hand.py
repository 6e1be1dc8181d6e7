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
    Taken,
)

__all__ = ("InHand",)


@dataclass(slots=True)
class InHand:
    """Requests that were started and have not ended, and those whose prompts are worked on.

    Others whose preparation was asked for wait in the engine, which has not touched them. A cancel ends nothing by
    itself: the engine may be inside of what is cancelled, and die of it.
    """

    _waiting: set[int] = field(default_factory=set)  # to be prepared, or being prepared
    _taken: frozenset[int] = frozenset()  # of those, and of some that are prepared by now
    _choices_left: dict[int, int] = field(default_factory=dict)  # of what was started

    @property
    def requests(self) -> frozenset[int]:
        """Their numbers. An engine that ends has ended with these."""
        return frozenset({*self._choices_left, *(self._taken & self._waiting)})

    def knows(self, request: int) -> bool:
        """Whether it is or will be in hand, as far as has been told."""
        return request in self._waiting or request in self._choices_left

    def tell(self, command: Command) -> None:
        """Take a command to the engine."""
        match command:
            case Prepare():
                self._waiting.add(command.request)
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
            case Taken(requests):
                self._taken = frozenset(requests)
            case Prepared() | Refused():
                self._waiting.discard(report.request)
            case Cancelled(request):
                self._waiting.discard(request)
                self._choices_left.pop(request, None)

    def _end_choice(self, request: int) -> None:
        left = self._choices_left.pop(request, 1) - 1
        if left > 0:
            self._choices_left[request] = left
