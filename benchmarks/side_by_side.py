"""neuron beside llama-server, llama-cpp-python's own server and the bare limit, in one run, in turns.

    python -m benchmarks.side_by_side                             # five rounds of everything
    python -m benchmarks.side_by_side --quick --subjects neuron   # proves that it works, with nothing else built

Writes one JSON line for each round, traffic and subject, and then a table and a plot beside them (`report.py`). All
servers stay loaded. The order within a round changes with the round, and ratios are taken within a round, because the
speed of a machine drifts.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import report
from benchmarks.replies import BenchmarkError, Reply, numbers
from benchmarks.servers import BARE, SERVERS, Server, built_version, drive, run_bare, running
from benchmarks.subject import MODELS, circumstances, cpu_count, joined_model
from benchmarks.traffic import FULL, QUICK, Conversation, Load, SecondTurn, Size, Traffic, second_turn, traffics

RESULTS: Final = Path(__file__).parent / "results"
SUBJECTS: Final = (*SERVERS, BARE)
TRAFFICS: Final = tuple(traffic.name for traffic in traffics(1, FULL))


def schedule(
    subjects: Sequence[str], *, rounds: int, size: Size, only: Collection[str]
) -> Iterator[tuple[int, Traffic, str]]:
    """Every measurement in its order: round, traffic, subject."""
    for number in range(1, rounds + 1):
        first = (number - 1) % len(subjects)
        for traffic in traffics(number, size):
            for name in (*subjects[first:], *subjects[:first]):
                if traffic.name in only and (name != BARE or isinstance(traffic, Load)):
                    yield number, traffic, name


@dataclass(slots=True)
class Bench:
    """All servers, loaded. `prompt_tokens` is the average length of each traffic's prompts, counted by a server."""

    servers: dict[str, Server]
    gguf: Path
    threads: int
    sampled: bool
    prompt_tokens: dict[str, int] = field(default_factory=dict)

    def measure(self, name: str, traffic: Traffic) -> dict[str, Any]:
        """One traffic at one subject. Raises `BenchmarkError` if it is not served to its end."""
        if name == BARE:
            return self._measure_bare(traffic)
        server = self.servers[name]
        idle = [other for other in self.servers.values() if other is not server]
        try:
            cpu_before_s, idle_before_s = server.cpu_s(), sum(other.cpu_s() for other in idle)
            seen = self._measure(server, traffic)
            if seen["prompt_tokens"]:
                self.prompt_tokens[traffic.name] = seen["prompt_tokens"] // seen["requests"]
            return seen | {
                "cpu_s": round(server.cpu_s() - cpu_before_s, 2),
                "idle_cpu_s": round(sum(other.cpu_s() for other in idle) - idle_before_s, 2),
                "memory_mb": round(server.memory_mb(), 1),
            }
        except psutil.Error as error:
            raise BenchmarkError(f"a server is gone: {error}") from error

    def _measure(self, server: Server, traffic: Traffic) -> dict[str, Any]:
        if isinstance(traffic, Load):
            return measure_load(server, traffic, sampled=self.sampled)
        return measure_second_turn(server, traffic, sampled=self.sampled)

    def _measure_bare(self, traffic: Traffic) -> dict[str, Any]:
        assert isinstance(traffic, Load)
        length = self.prompt_tokens.get(traffic.name)
        if length is None:
            raise BenchmarkError("no server before it said how long the prompts are")
        return run_bare(traffic, gguf=self.gguf, threads=self.threads, prompt_tokens=length)


def measure_load(server: Server, load: Load, *, sampled: bool) -> dict[str, Any]:
    """The numbers of the clients of `load`."""
    replies, client_cpu_s = drive(
        server, load.conversations, max_tokens=load.max_tokens, streams=load.streams, sampled=sampled
    )
    return numbers(replies, streams=load.streams) | {"client_cpu_s": round(client_cpu_s, 3)}


def measure_second_turn(server: Server, traffic: SecondTurn, *, sampled: bool) -> dict[str, Any]:
    """The first token of second turns, beside that of equally long prompts that are new to the server."""

    def ask(conversation: Conversation, max_tokens: int) -> Reply:
        [reply], _ = drive(server, (conversation,), max_tokens=max_tokens, streams=1, sampled=sampled)
        return reply

    second, cold = [], []
    for first, fresh in traffic.chats:
        opening = ask(first, traffic.max_tokens)
        second.append(ask(second_turn(first, opening.text), 1))
        cold.append(ask(second_turn(fresh, opening.text), 1))
    second_s = statistics.median(reply.first_token_s for reply in second)
    cold_s = statistics.median(reply.first_token_s for reply in cold)
    return {
        "requests": len(second),
        "prompt_tokens": sum(reply.prompt_tokens or 0 for reply in second) or None,
        "cached_tokens": sum(reply.cached_tokens or 0 for reply in second),
        "first_token_p50_ms": round(second_s * 1000, 1),
        "cold_first_token_p50_ms": round(cold_s * 1000, 1),
        "warm_to_cold": round(second_s / cold_s, 3),
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--quick", action="store_true", help="one round of little, only to see that it works")
    option("--rounds", type=int, metavar="N", help="default: 5, with --quick 1")
    option("--threads", type=int, metavar="N", default=cpu_count(), help="default: one for each CPU")
    option("--only", nargs="+", choices=TRAFFICS, default=TRAFFICS, metavar="TRAFFIC", help=", ".join(TRAFFICS))
    option("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, metavar="NAME", help=", ".join(SUBJECTS))
    option("--model", choices=MODELS, default="smollm2", help=f"{', '.join(MODELS)}; default: smollm2")
    option("--sampled", action="store_true", help="temperature 0.8, top_k 40, top_p 0.95 instead of the highest score")
    option("--target-step-ms", type=int, metavar="MS", help="neuron's setting of this name; default: its own")
    option("--out", type=Path, metavar="FILE.jsonl", help="default: benchmarks/results/DATE-MACHINE.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, write, and show the table. A failed measurement is a line with `error`, and the exit status is 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
    options = parse_arguments()
    subjects = [name for name in SUBJECTS if name in options.subjects]
    size, rounds = (QUICK, options.rounds or 1) if options.quick else (FULL, options.rounds or 5)
    lines = []
    with ExitStack() as loaded:
        home = Path(loaded.enter_context(tempfile.TemporaryDirectory(prefix="neuron-bench-")))
        gguf = joined_model(options.model, home)
        around = {
            "bench": "side_by_side",
            **circumstances(options.threads, gguf.name),
            "sampled": options.sampled,
            "target_step_ms": options.target_step_ms,
        }
        out = options.out or RESULTS / f"{around['date']}-{around['cpus']}-cpus-{around['machine']}.jsonl"
        try:
            if {"llama-server", BARE} & set(subjects):
                around["llama_cpp"] = built_version()
            servers = {
                name: loaded.enter_context(
                    running(
                        name,
                        gguf=gguf,
                        threads=options.threads,
                        target_step_ms=options.target_step_ms,
                        has_template=options.model != "gemma",
                    )
                )
                for name in subjects
                if name != BARE
            }
        except BenchmarkError as error:
            raise SystemExit(f"side_by_side: {error}") from error
        bench = Bench(servers, gguf, options.threads, options.sampled)
        file = loaded.enter_context(out.open("w", encoding="utf-8"))
        for number, traffic, name in schedule(subjects, rounds=rounds, size=size, only=options.only):
            try:
                result = bench.measure(name, traffic)
            except BenchmarkError as error:
                result = {"error": str(error)}
            lines.append({"round": number, "traffic": traffic.name, "subject": name} | result | around)
            print(json.dumps(lines[-1]), file=file, flush=True)
            shown = result.get("error") or result.get("tok_per_s") or f"warm ÷ cold {result['warm_to_cold']}"
            print(f"{number}  {traffic.name:<17} {name:<20} {shown}", file=sys.stderr)
    report.write(lines, out)
    sys.exit(any("error" in line for line in lines))


if __name__ == "__main__":
    main()
