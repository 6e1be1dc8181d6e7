"""The lines of server-sent events. Pure: takes lines, gives events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ("ServerSentEvent", "read_events")


@dataclass(slots=True, frozen=True)
class ServerSentEvent:
    """An event of a stream: its name, its text, and the id from which a stream can be resumed."""

    event: str
    data: str
    id: str | None = None


def read_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """The events of a stream. `lines` are without their ends. Comments, and fields that nobody knows, are skipped.

    An event that the end of the stream cuts off is dropped, as the standard says.
    """
    name, data, last_id = "message", list[str](), None
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(name, "\n".join(data), last_id)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "data":
                data.append(value)
            case "event":
                name = value
            case "id":
                last_id = value
