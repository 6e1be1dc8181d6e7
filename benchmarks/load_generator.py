"""Chat clients in a process of their own. On a small machine their time is taken from the servers that they measure.

Reads one job from standard input, `{"port", "streams", "bodies"}`. Sends every body over a connection of its own,
`streams` at a time, and only records what arrived when. `replies.py` reads the records afterwards. Writes one JSON
object: `{"cpu_s", "logs": [[sent_s, [[arrived_s, bytes as Latin-1], …]], …]}`, all times on one clock.
"""

import gc
import json
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ("Log", "exchange")

Log: TypeAlias = tuple[float, list[tuple[float, bytes]]]
"""The time at which a request was sent, and what arrived when. An empty arrival is the end."""

_PATIENCE_S = 300


def request_bytes(body: str) -> bytes:
    """The one request of a connection."""
    payload = body.encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def exchange(port: int, requests: Sequence[bytes], *, streams: int) -> list[Log]:
    """Send all `requests` in order, `streams` at a time, and log every arrival. Raises `TimeoutError` on silence."""
    waiting = deque(requests)
    logs: list[Log] = []
    with selectors.DefaultSelector() as selector:

        def send_next() -> None:
            log: Log = (time.perf_counter(), [])
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(waiting.popleft())
            selector.register(connection, selectors.EVENT_READ, (connection, log[1]))
            logs.append(log)

        for _ in range(min(streams, len(waiting))):
            send_next()
        while selector.get_map():
            ready = selector.select(_PATIENCE_S)
            if not ready:
                raise TimeoutError(f"no byte from the server on port {port} for {_PATIENCE_S} s")
            for key, _ in ready:
                connection, arrivals = key.data
                data = connection.recv(1 << 16)
                arrivals.append((time.perf_counter(), data))
                if not data:
                    selector.unregister(connection)
                    connection.close()
                    if waiting:
                        send_next()
    return logs


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    requests = [request_bytes(body) for body in job["bodies"]]
    gc.disable()  # its pauses would look like gaps of a server
    before_s = time.process_time()
    logs = exchange(job["port"], requests, streams=job["streams"])
    cpu_s = time.process_time() - before_s
    readable = [(sent_s, [(at_s, data.decode("latin-1")) for at_s, data in arrivals]) for sent_s, arrivals in logs]
    json.dump({"cpu_s": cpu_s, "logs": readable}, sys.stdout)


if __name__ == "__main__":
    main()
