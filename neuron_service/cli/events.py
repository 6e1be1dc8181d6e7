"""`neuron events`: what happens on a host, a line for each event."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from neuron_service.cli.load_words import describe_load
from neuron_service.cli.screen import shown
from neuron_service.cli.terminal import complain
from neuron_service.client.client import Client
from neuron_service.client.translation import NOT_NEURON, lacking

__all__ = ("describe_event", "follow_events")


def follow_events(client: Client, *, as_json: bool, since: str | None) -> int:
    """Print events until the service ends or the command is interrupted. Returns the exit status.

    `since` is the id of an event. The events after that one come first, as far as the service still has them.
    """
    headers = {} if since is None else {"last-event-id": since}
    with client.stream("GET", "/events", headers=headers) as events:
        for event in events:
            try:
                line = event.data if as_json else describe_event(json.loads(event.data))
            except NOT_NEURON as error:
                raise lacking(client.address, error) from error
            print(line, flush=True)
    complain(f"{client.address} has ended the stream")
    return 0


def describe_event(event: Mapping[str, Any]) -> str:
    """An event in one line: local time, kind, model, and what has happened. Raises for anything that is no event."""
    kind, model_id = event["type"], event.get("model_id", "-")
    return f"{_clock(event['at'])}  {shown(kind):<9}  {shown(model_id)}  {shown(_what(kind, event))}".rstrip()


def _clock(at_s: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(at_s))
    except OSError as error:  # no year that the system knows
        raise ValueError(str(error)) from error


def _what(kind: str, event: Mapping[str, Any]) -> str:
    say = _WORDS.get(kind)
    if say is not None:
        return say(event)
    known = {"type", "at", "id", "model_id"}
    return json.dumps({name: value for name, value in event.items() if name not in known})  # of a newer service


def _reply(event: Mapping[str, Any]) -> str:
    parts = [event["outcome"], f"{event['prompt_tokens']} + {event['completion_tokens']} tokens"]
    if (first_ms := event.get("ttft_ms")) is not None:
        parts.append(f"first after {first_ms} ms")
    parts.append(f"{event['total_ms']} ms")
    if error := event.get("error"):
        parts.append(error)
    return ", ".join(parts)


def _reload_end(event: Mapping[str, Any]) -> str:
    if error := event.get("error"):
        return f" and refused: {error}"
    keys = event.get("needs_restart")
    return f", and a restart is needed for {', '.join(keys)}" if keys else ""


_WORDS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "host": lambda event: event["state"],
    "model": lambda event: ": ".join(filter(None, (event["phase"], event.get("reason")))),
    "progress": lambda event: describe_load(event["progress"]),
    "restart": lambda event: f"restart {event['restarts']}: {event['death']}",
    "rejection": lambda event: f"{event['what']} refused, {event['code']}: {event['reason']}",
    "reload": lambda event: "the configuration was read again" + _reload_end(event),
    "reply": _reply,
    "gap": lambda _event: "events were missed",
}
"""What each kind of event says."""
