"""Chat clients in a process of their own, so that they do not share an interpreter with anything they measure.

`python -m benchmarks.load_generator PORT MODEL STREAMS REQUESTS MAX_TOKENS` sends REQUESTS streamed chats, STREAMS at
a time, and prints one JSON object: tokens as the server's usage counts them, seconds, first-token and gap times.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

from benchmarks.subject import story


@dataclass
class Tally:
    """What all clients saw."""

    completion_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)


async def chat(port: int, model: str, *, message: dict[str, str], max_tokens: int, tally: Tally) -> None:
    """One streamed chat over a connection of its own; adds what it saw to `tally`."""
    body = json.dumps(
        {
            "model": model,
            "stream": True,
            "temperature": 0,
            "repetition_penalty": 1,  # the bare limit has none either
            "max_tokens": max_tokens,
            "messages": [message],
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    started = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    await writer.drain()
    has_token = False
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        if event.get("usage"):
            tally.completion_tokens += event["usage"]["completion_tokens"]
        elif event["choices"] and event["choices"][0]["delta"].get("content"):
            now = time.perf_counter()
            if has_token:
                tally.gap_s.append(now - last)
            else:
                tally.first_token_s.append(now - started)
            has_token, last = True, now
    writer.close()


async def run(port: int, model: str, *, streams: int, requests: int, max_tokens: int) -> dict[str, object]:
    """All requests, `streams` at a time."""
    tally = Tally()
    queue = list(range(requests))

    async def client() -> None:
        while queue:
            message = story(queue.pop())
            await chat(port, model, message=message, max_tokens=max_tokens, tally=tally)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for _ in range(streams):
            clients.create_task(client())
    return {
        "seconds": time.perf_counter() - started,
        "completion_tokens": tally.completion_tokens,
        "first_token_s": tally.first_token_s,
        "gap_s": tally.gap_s,
    }


if __name__ == "__main__":
    port, model, streams, requests, max_tokens = sys.argv[1:]
    report = run(int(port), model, streams=int(streams), requests=int(requests), max_tokens=int(max_tokens))
    print(json.dumps(asyncio.run(report)))
