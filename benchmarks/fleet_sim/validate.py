"""One real daemon beside one simulated host, with the same traffic: how wrong the simulation is.

    python -m benchmarks.fleet_sim.validate --engine sleeping --times TIMES.json   # steps sleep as long as a table says
    python -m benchmarks.fleet_sim.validate --engine real                          # the table is measured just before

Prints one line of JSON: what clients of the daemon saw, what the simulation predicted, and predicted ÷ seen. With
`--engine sleeping` the step times are right by construction, so what is wrong is wrong in the simulation of everything
else: the line, admission, scheduler, prompt cache and the way of a request. With `--engine real` the table is wrong
too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.daemon_cost import wait_loaded
from benchmarks.first_answer import free_port
from benchmarks.fleet_sim.fleet import Fleet, Plan, Retries
from benchmarks.fleet_sim.measure import measured
from benchmarks.fleet_sim.outcomes import percentiles
from benchmarks.fleet_sim.step_times import StepTimes
from benchmarks.fleet_sim.traffic import Arrivals, Conversation, Lengths, Traffic, Turn, conversations
from benchmarks.subject import circumstances, cpu_count, model_path
from neuron_lib.config import AdmissionConfig, LlamaCppConfig

ROOT: Final = Path(__file__).parents[2]
N_CTX: Final = 2048
_LIMIT_S: Final = 120.0
_WORDS: Final = ("stone", "winter", "garden", "letter", "market", "window", "yellow", "small", "open", "quiet", "bring")


class Exchanged(msgspec.Struct):
    """What a client of the daemon saw of one request. Times are in seconds since the first one."""

    sent_s: float
    words: int
    arrivals_s: list[float] = msgspec.field(default_factory=list)
    status: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


@contextmanager
def running(times: Path | None, config: LlamaCppConfig) -> Iterator[int]:
    """The port of a daemon that serves the demo model; with `times` its steps sleep."""
    admission = config.admission
    with tempfile.TemporaryDirectory(prefix="neuron-bench-") as home:
        folder, port = Path(home), free_port()
        gguf = folder / model_path().name
        gguf.write_bytes(model_path().read_bytes())
        file = folder / "neuron.toml"
        file.write_text(
            f"""
default_models = [{{ model_id = "bench/model", harness = "llamacpp" }}]
models = [{{ id = "bench/model", path = "{gguf}" }}]

[harness.llamacpp]
local_roots = ["{folder}"]
threads = {cpu_count()}
n_ctx = {config.n_ctx}
speculation = "off"
target_step_ms = {config.target_step_ms}
admission.max_in_flight = {admission.max_in_flight}
admission.max_queue_depth = {admission.max_queue_depth}
admission.max_wait_secs = {admission.max_wait_secs}
""",
            encoding="utf-8",
        )
        program = ["-m", "neuron_service"]
        if times is not None:
            program = [str(Path(__file__).with_name("sleeping_daemon.py")), str(times)]
        command = [sys.executable, *program, "serve", "--config", str(file), "--port", str(port)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        command += ["--log-level", "warning"]
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as process:
            try:
                wait_loaded(port)
                yield port
            finally:
                process.terminate()
                process.wait(_LIMIT_S)


def ask(port: int, turn: Turn, *, number: int, began_s: float) -> Exchanged:
    """Send one chat now and read its stream to the end."""
    text = " ".join([f"{number}", *(_WORDS[(number + n) % len(_WORDS)] for n in range(turn.prompt))])
    body = {
        "model": "bench/model",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": turn.reply,
        "temperature": 0.8,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    seen = Exchanged(time.monotonic() - began_s, turn.prompt)
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    seen.status = response.status
    for line in response if response.status == 200 else ():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if usage := event.get("usage"):
            seen.prompt_tokens = usage["prompt_tokens"]
            seen.cached_tokens = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        if any(choice["delta"].get("content") for choice in event.get("choices", ())):
            seen.arrivals_s.append(time.monotonic() - began_s)
    connection.close()
    return seen


def drive(port: int, talks: Sequence[Conversation]) -> list[Exchanged]:
    """Send each conversation's first turn at its time, each in a thread of its own."""
    found: dict[int, Exchanged] = {}
    began_s = time.monotonic()

    def one(talk: Conversation) -> None:
        time.sleep(max(0.0, began_s + talk.begins_s - time.monotonic()))
        found[talk.number] = ask(port, talk.turns[0], number=talk.number, began_s=began_s)

    threads = [threading.Thread(target=one, args=(talk,)) for talk in talks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in sorted(found)]


def numbers(sent: int, first: Sequence[float], whole: Sequence[float], gaps: dict[str, float], end_s: float) -> Any:
    """What is compared, in milliseconds."""
    rows = dict(zip(("p50", "p90", "p99"), percentiles(first, 0.5, 0.9, 0.99), strict=True))
    ends = dict(zip(("p50", "p90", "p99"), percentiles(whole, 0.5, 0.9, 0.99), strict=True))
    return {
        "answered": len(whole),
        "refused": sent - len(whole),
        "all_done_s": round(end_s, 1),
        **{f"first_token_{name}_ms": round((value or 0) * 1000, 1) for name, value in rows.items()},
        **{f"whole_{name}_ms": round((value or 0) * 1000, 1) for name, value in ends.items()},
        **{f"gap_{name}_ms": round(value * 1000, 1) for name, value in gaps.items()},
    }


def seen_numbers(found: Sequence[Exchanged]) -> Any:
    """Those of the daemon."""
    answered = [each for each in found if each.arrivals_s]
    gaps = [after - before for each in answered for before, after in pairwise(each.arrivals_s)]
    p50, p99 = percentiles(gaps, 0.5, 0.99)
    return numbers(
        len(found),
        [each.arrivals_s[0] - each.sent_s for each in answered],
        [each.arrivals_s[-1] - each.sent_s for each in answered],
        {"p50": p50 or 0.0, "p99": p99 or 0.0},
        max(each.arrivals_s[-1] for each in answered),
    )


def predicted_numbers(found: Sequence[Exchanged], talks: Sequence[Conversation], plan: Plan) -> Any:
    """Those of the simulated host, for requests of the same lengths at the same times."""
    answered = [each for each in found if each.prompt_tokens]
    shared = sorted(each.cached_tokens for each in answered)[len(answered) // 2]
    over = sorted(each.prompt_tokens - each.words for each in answered)[len(answered) // 2]
    same = [
        Conversation(
            talk.number,
            each.sent_s,
            (0, shared),
            (Turn((each.prompt_tokens or each.words + over) - shared, talk.turns[0].reply, 0.0),),
            "",
        )
        for talk, each in zip(talks, found, strict=True)
    ]
    fleet = Fleet(plan, seed=1, talks=same)
    fleet.run()
    ended = [each for each in fleet.seen if each.ended_s is not None]
    return numbers(
        len(found),
        [(each.first_token_s or 0.0) - each.sent_s for each in ended],
        [(each.ended_s or 0.0) - each.sent_s for each in ended],
        {"p50": fleet.gaps.percentile(0.5), "p99": fleet.gaps.percentile(0.99)},
        max(each.ended_s or 0.0 for each in ended),
    )


def main() -> None:
    """Measure, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("sleeping", "real"), default="sleeping")
    parser.add_argument("--times", type=Path, help="a table of benchmarks.fleet_sim.measure; default: measured now")
    parser.add_argument("--rate", type=float, default=0.8, help="requests in a second")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--arrivals", choices=("poisson", "gamma", "on-off", "wave"), default="gamma")
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    arrivals: Arrivals = options.arrivals
    traffic = Traffic(
        conversations_per_s=options.rate,
        arrivals=arrivals,
        cv=2.0,
        prompt=Lengths(median=150, sigma=0.8, least=10, most=1000),
        reply=Lengths(median=60, sigma=0.8, least=4, most=400),
    )
    talks = list(conversations(traffic, seed=options.seed, until_s=options.seconds))
    config = LlamaCppConfig(
        n_ctx=N_CTX,
        admission=AdmissionConfig(
            max_in_flight=options.seats, max_queue_depth=options.queue, max_wait_secs=options.patience
        ),
    )
    if options.times is not None:
        times = msgspec.json.decode(options.times.read_bytes(), type=StepTimes)
    else:
        times = measured(model_path(), name="now", threads=cpu_count(), rounds=3, load_s=1.0)
    before = os.getloadavg()[0]
    with running(options.times if options.engine == "sleeping" else None, config) as port:
        found = drive(port, talks)
    after = os.getloadavg()[0]
    plan = Plan(
        traffic=traffic,
        times=times,
        config=config,
        seconds=options.seconds + 300,
        warm_up_s=0.0,
        retries=Retries(times=0),
    )
    seen, predicted = seen_numbers(found), predicted_numbers(found, talks, plan)
    ratios = {key: round(predicted[key] / value, 3) for key, value in seen.items() if value}
    line = {
        "bench": "fleet_sim.validate",
        "engine": options.engine,
        "requests": len(talks),
        "arrivals": arrivals,
        "rate": options.rate,
        "seats": options.seats,
        "queue": options.queue,
        "patience_s": options.patience,
        "load_before": round(before, 1),
        "load_after": round(after, 1),
        "seen": seen,
        "predicted": predicted,
        "ratio": ratios,
    }
    print(json.dumps(line | circumstances(cpu_count())))


if __name__ == "__main__":
    main()
