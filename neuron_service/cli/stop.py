"""`neuron stop`: ends the service of this machine, as SIGTERM does."""

import os
import select
import signal
import time
from typing import Final

from neuron_service.cli.listener_process import Listener, find_listeners, is_neuron
from neuron_service.cli.screen import print_json, waiting
from neuron_service.cli.terminal import INTERRUPTED, complain
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import NOT_NEURON

__all__ = ("stop_service",)

_PAUSE_S: Final = 0.5
_SECOND_SIGNAL_S: Final = 0.3
"""A second signal counts as one from 200 ms after the first."""
_REMOTE: Final = "ask on that machine: `neuron stop` ends a service of this machine only"


def stop_service(client: Client, *, now: bool, limit_s: float, as_json: bool) -> int:
    """Have the service end, and wait for its end. Returns the exit status. Raises `DaemonProblem`."""
    client.get("/version")  # says why nothing answers, or that what answers is no neuron
    found = _find(client)
    if isinstance(found, str):
        complain(found)
        return os.EX_UNAVAILABLE
    try:
        process = os.pidfd_open(found.pid)
        with waiting(f"neuron ends (process {found.pid})") as say:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if now and not _ends(process, _SECOND_SIGNAL_S):
                signal.pidfd_send_signal(process, signal.SIGTERM)
            deadline = time.monotonic() + limit_s
            while not _ends(process, min(_PAUSE_S, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    complain(f"process {found.pid} still drains after {limit_s:.0f} s; `neuron stop --now` ends it")
                    return os.EX_TEMPFAIL
                say(f"neuron ends (process {found.pid}){_running(client)}")
    except ProcessLookupError:
        pass
    except KeyboardInterrupt:
        complain(f"process {found.pid} goes on to drain, and ends by itself")
        return INTERRUPTED
    if as_json:
        print_json({"pid": found.pid, "status": "ended"})
    else:
        print(f"neuron has ended (process {found.pid})")
    return 0


def _find(client: Client) -> Listener | str:
    """The process of the service, or a sentence that says why it cannot be stopped here."""
    address = client.address
    listeners = find_listeners(address.host, address.port)
    if not listeners:
        return f"no process of this user listens at {address}; run the command as its user, or {_REMOTE}"
    neurons = [each for each in listeners if is_neuron(each.command)]
    if len(neurons) != 1:
        pids = ", ".join(str(each.pid) for each in listeners)
        return f"which process of {pids} is the service at {address} is not clear; end it with `kill PID`"
    (found,) = neurons
    if found.unit is not None:
        user = "--user " if found.is_user_unit else ""
        return f"systemd runs the service at {address}; stop it with `systemctl {user}stop {found.unit}`"
    return found


def _ends(process: int, limit_s: float) -> bool:
    """Whether a process ends within so many seconds."""
    readable, _, _ = select.select([process], [], [], limit_s)
    return bool(readable)


def _running(client: Client) -> str:
    """How many replies are still made, in words. Empty if the service does not say."""
    try:
        running = sum(model["in_flight"] for model in client.get("/health", timeout_s=1.0)["models"])
    except (DaemonProblem, *NOT_NEURON):
        return ""
    return f": {running} {'reply is' if running == 1 else 'replies are'} still made" if running else ""
