"""One model over several hosts: what the network costs.

`python -m benchmarks.rpc_network [--model FILE] [--rounds N] [--tokens N] [--quick] [--out FILE]` serves a model on the
CPU alone, on one RPC server, and shared out between two. All servers are on this machine. Between them and the neuron
is a relay (`rpc_relay`), which delays what passes, limits it, and counts it. Each round takes all of them in turn, and
a ratio is that of one round. Prints JSON lines, and a table at the end.

What passes for a token does not depend on the speed of the machine. Its times do. A token that no other program has
delayed is among the quickest, so `quick_ms` is the time within which the quickest tenth of the tokens came, and the
ratios are those of this time. `token_ms` is the mean of all.
"""

import argparse
import json
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from benchmarks.rpc_relay import Link, Relay, Traffic
from benchmarks.subject import circumstances, model_path
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.llama.rpc_server import program
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.types import ChatRequest, Finished, ModelSpec, SamplingParams, TextDelta

MODEL: Final = "bench/model"
LINKS: Final = (
    Link(),
    Link(delay_ms=0.5),
    Link(delay_ms=2.5),
    Link(mbit_s=1000),
    Link(mbit_s=100),
)
QUICK_LINKS: Final = (Link(), Link(delay_ms=2.5))
_START_LIMIT_S: Final = 30.0


class Place(NamedTuple):
    """Where the model is: on so many servers (0 is the CPU alone), behind such links."""

    servers: int
    link: Link | None

    def __str__(self) -> str:
        if self.link is None:
            return "the CPU alone"
        return f"{self.servers} server{'s' if self.servers > 1 else ''}, {self.link}"


class Measured(NamedTuple):
    """One round at one place. `token` and `prompt` are the traffic of one token of each, on all links together."""

    load_s: float
    prompt_tok_s: float
    token_ms: float
    quick_ms: float
    turns: float
    sent_bytes: float
    received_bytes: float
    prompt_sent_bytes: float
    loaded_bytes: int


@contextmanager
def rpc_servers(count: int) -> Iterator[list[tuple[str, int]]]:
    """So many servers with one thread each, which have ended with the block."""
    found = program()
    if found is None:
        raise SystemExit("llama.cpp was built without its RPC server: run `make install`")
    with ExitStack() as stack:
        places = []
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                place = probe.getsockname()
            words = [str(found), "--host", place[0], "--port", str(place[1]), "--threads", "1"]
            server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
            deadline = time.monotonic() + _START_LIMIT_S
            while not _listens(place):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("an RPC server did not start")
                time.sleep(0.05)
            places.append(place)
        yield places


def _listens(place: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(place) == 0


async def measure(place: Place, servers: Sequence[tuple[str, int]], model: Path, *, salt: int, tokens: int) -> Measured:
    """Load the model there, let it read a prompt and write a reply."""
    link = place.link or Link()
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(server, link)) for server in servers[: place.servers]]
        config = LlamaCppConfig(
            n_ctx=1024,
            threads=1,
            report_interval_ms=0,
            speculation="off",
            admission=AdmissionConfig(max_in_flight=1),
            rpc_servers=tuple(relay.address for relay in relays),
        )
        harness = LlamaCppHarness(config, models=(ModelEntry(id=MODEL, path=str(model)),))
        spec = ModelSpec(model_id=MODEL, harness="llamacpp", devices=tuple(range(place.servers)))
        began = time.perf_counter()
        async with harness.open(spec, model_id=MODEL, report=lambda _: None) as loaded:
            load_s, loaded_bytes = time.perf_counter() - began, _passed(relays).sent_bytes
            words = " ".join(f"{salt}{n} river stone" for n in range(40))
            return await _reply(loaded, relays, words, tokens, load_s=load_s, loaded_bytes=loaded_bytes)


async def _reply(
    model: LlamaCppModel, relays: Sequence[Relay], words: str, tokens: int, *, load_s: float, loaded_bytes: int
) -> Measured:
    request = ChatRequest(
        model_id=MODEL,
        messages=({"role": "user", "content": f"{words}. Write a very long story about it."},),
        sampling=SamplingParams(temperature=0),
        max_tokens=tokens,
    )
    before, first, usage = _passed(relays), None, None
    times: list[float] = []
    began = time.perf_counter()
    async with model.run(request) as reply:
        async for event in reply:
            match event:
                case TextDelta():
                    times.append(time.perf_counter())
                    first = first or _passed(relays)
                case Finished():
                    usage = event.usage
    assert first is not None
    assert usage is not None
    prompt, written = first - before, _passed(relays) - first
    gaps = sorted(after - earlier for earlier, after in pairwise(times))
    steps = max(1, usage.completion_tokens - 1)
    return Measured(
        load_s=load_s,
        prompt_tok_s=usage.prompt_tokens / (times[0] - began),
        token_ms=(times[-1] - times[0]) / steps * 1000,
        quick_ms=gaps[len(gaps) // 10] * 1000,
        turns=written.turns / steps,
        sent_bytes=written.sent_bytes / steps,
        received_bytes=written.received_bytes / steps,
        prompt_sent_bytes=prompt.sent_bytes / usage.prompt_tokens,
        loaded_bytes=loaded_bytes,
    )


def _passed(relays: Sequence[Relay]) -> Traffic:
    total = Traffic()
    for relay in relays:
        total.sent_bytes += relay.traffic.sent_bytes
        total.received_bytes += relay.traffic.received_bytes
        total.turns += relay.traffic.turns
    return total


def table(rounds: Sequence[dict[Place, Measured]]) -> Iterator[str]:
    """Medians over the rounds. The ratio is to the same number of servers without a delay or a limit."""
    names = "load", "prompt, tok/s", "token, ms", "quick, ms", "÷ no delay (range)", "turns", "sent, kB", "received, kB"
    yield f"| | {' | '.join(names)} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for place in rounds[0]:
        seen = [each[place] for each in rounds]
        base = Place(place.servers, None if place.link is None else Link())
        ratios = [each[place].quick_ms / each[base].quick_ms for each in rounds]
        middle = Measured(*(statistics.median(values) for values in zip(*seen, strict=True)))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
        yield (
            f"| {place} | {middle.load_s:.1f} s | {middle.prompt_tok_s:.0f} | {middle.token_ms:.1f} | "
            f"{middle.quick_ms:.1f} | {ratio} | {middle.turns:.1f} | "
            f"{middle.sent_bytes / 1000:.1f} | {middle.received_bytes / 1000:.1f} |"
        )


def main() -> None:
    """Measure all places in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="a GGUF file (default: the demo model)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="only prove that it works")
    parser.add_argument("--out", type=Path, help="a file for the JSON lines")
    options = parser.parse_args()
    links = QUICK_LINKS if options.quick else LINKS
    places = [Place(0, None), *(Place(count, link) for count in (1, 2) for link in links)]
    count, tokens = (1, 8) if options.quick else (options.rounds, options.tokens)
    about = circumstances(1, options.model.name)
    rounds: list[dict[Place, Measured]] = []
    with rpc_servers(2) as servers:
        for number in range(count):
            measured: dict[Place, Measured] = {}
            for place in places:
                found = anyio.run(partial(measure, place, servers, options.model, salt=number, tokens=tokens))
                measured[place] = found
                line = {"bench": "rpc_network", "round": number, "place": str(place), "servers": place.servers}
                text = json.dumps(line | {"link": _link(place)} | found._asdict() | about)
                print(text, flush=True)
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(text + "\n")
            rounds.append(measured)
    for row in table(rounds):
        print(row)


def _link(place: Place) -> dict[str, float] | None:
    return None if place.link is None else {"delay_ms": place.link.delay_ms, "mbit_s": place.link.mbit_s}


if __name__ == "__main__":
    main()
