"""What must hold after every fault: I1 to I12, the promises of docs/explanation/reliability.md.

A violation is an AssertionError whose message begins with the promise's number.
"""

import hashlib
import re
import signal
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.faults.exchanges import Ending
from tests.faults.footprint import anonymous_bytes, footprint, zombies
from tests.faults.subject import KEY, SECRET, Rig
from tests.patience import slowness
from tests.system.daemon import eventually, is_gone

__all__ = ("check_end", "check_invariants", "overlapping_loads", "told_secrets")

DRAIN_S = 60
"""Unless it is configured."""
STOP_LIMIT_S = 20 + 5
"""Beyond the time to drain: unloading, and the last answers."""
MOST_MEMORY = 32 << 20
"""More than before the first fault: what allocators keep. It is `test_growth` that finds leaks."""
LONG_TEXT = 12
"""Characters from which on a reply is in a log by no accident."""

LOAD_BEGINS = re.compile(r"loading model: resolving .*model_id=(\S+)")
LOAD_ENDS = re.compile(
    r"(?:engine ready|program serves|load cancelled:|a load failed|failed to load default model"
    r"|source of default model unavailable|path=/models/load ).*model_id=(\S+)"
)

BAD_REQUESTS: dict[str, tuple[str, bytes]] = {
    "not JSON": ("/v1/chat/completions", b'{"model": '),
    "not UTF-8": ("/v1/chat/completions", b'{"model": "\xff\xfe"}'),
    "nested": ("/v1/chat/completions", b"[" * 100_000),
    "no messages": ("/v1/chat/completions", b'{"model": "test/real"}'),
    "not a number": ("/v1/chat/completions", b'{"model": "test/real", "messages": [], "temperature": NaN}'),
    "no such model": ("/v1/chat/completions", b'{"model": "no/such", "messages": [{"role":"user","content":"x"}]}'),
    "unload of nothing": ("/models/unload", b'{"model_id": "no/such"}'),
    "load by nobody": ("/models/load", b'{"model_id": "no/such", "harness": "none"}'),
    "load of nothing": ("/models/load", b"{}"),
}


def check_invariants(rig: Rig) -> None:
    """All of them, but for the end of the daemon itself. Waits for what may take a moment; asks a few questions."""
    check_alive(rig)
    check_polls(rig)
    check_loads(rig)
    check_requests_ended(rig)
    check_idle(rig)
    check_served(rig)
    check_bad_requests_change_nothing(rig)
    check_nothing_left_behind(rig)
    check_memory(rig)
    check_caches(rig)
    check_polls(rig)
    check_loads(rig)
    check_log(rig)
    check_alive(rig)


def check_end(rig: Rig) -> None:
    """Stop the daemon if nobody has, and see that it ends in time, with everybody told and nothing left."""
    family = [] if rig.daemon.process.poll() is not None else psutil.Process(rig.pid).children(recursive=True)
    drain_s = tomllib.loads(rig.daemon.config_path.read_text()).get("drain_timeout_secs", DRAIN_S)
    if rig.daemon.process.poll() is None:
        rig.gateway.stop()
        rig.daemon.signal(signal.SIGTERM)
    status = rig.daemon.process.wait(drain_s + STOP_LIMIT_S)
    assert status == 0, f"I10: the daemon ended with status {status}"
    for child in family:
        eventually(lambda child=child: is_gone(child.pid) or not child.is_running())  # type: ignore[misc]  # bound now
    check_requests_ended(rig)
    check_polls(rig)
    check_loads(rig)
    check_caches(rig)
    check_log(rig)


def check_alive(rig: Rig) -> None:
    status = rig.daemon.process.poll()
    assert status is None, f"I1: the daemon ended with status {status}"


def check_polls(rig: Rig) -> None:
    misses = rig.gateway.misses
    assert rig.gateway.waits_s or misses, "I2: the gateway has asked nothing"
    assert not misses, f"I2: {len(misses)} polls of {len(rig.gateway.waits_s)} missed, such as {misses[0]}"


def check_loads(rig: Rig) -> None:
    twice = overlapping_loads(rig.daemon.log)
    assert not twice, f"I12: {twice} was loaded twice at the same time"


def check_requests_ended(rig: Rig) -> None:
    for exchange in rig.exchanges:
        outcome = exchange.outcome()
        assert outcome.ending is not Ending.BROKEN, f"I3: {outcome.detail} ({exchange!r})"


def check_idle(rig: Rig) -> None:
    def busy() -> list[str]:
        return [load["id"] for load in rig.daemon.health()["models"] if load["in_flight"] or load["queue_depth"]]

    expect(rig, "I4: there are requests of nobody", lambda: not busy())


def check_nothing_left_behind(rig: Rig) -> None:
    expect(rig, "I5: there are zombies", lambda: not zombies(rig.pid))
    expect(rig, "I5: there are processes of no model", lambda: len(rig.daemon.engine_pids()) <= len(rig.models()))
    baseline = rig.baseline
    assert baseline is not None, "the rig has not settled"
    try:
        eventually(lambda: not footprint(rig.pid).exceeds(baseline), within_s=rig.patience_s * slowness())
    except AssertionError:
        raise AssertionError(f"I5: {footprint(rig.pid)} is more than {baseline} at the beginning") from None


def check_memory(rig: Rig) -> None:
    """What the last request held may still be on its way back."""
    beginning = rig.memory >> 20
    expect(
        rig,
        f"I7: the daemon has {MOST_MEMORY >> 20} MiB more than at the beginning, {beginning}",
        lambda: anonymous_bytes(rig.pid) - rig.memory <= MOST_MEMORY,
    )


def check_caches(rig: Rig) -> None:
    """Whatever is there as a file of a model is what it was when it was fetched: its name says so."""
    for cache in caches(rig):
        for path in cache.glob("*/snapshots/**/*.gguf"):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            assert found == path.resolve().name, f"I6: {path} is not what was fetched"


def caches(rig: Rig) -> list[Path]:
    llamacpp = tomllib.loads(rig.daemon.config_path.read_text())["harness"]["llamacpp"]
    return [Path(source["cache_dir"]) for source in llamacpp["sources"].values()]


def check_served(rig: Rig) -> None:
    """Whoever is listed answers, once recovered."""
    expect(rig, "I8: a model does not recover", lambda: "recovering" not in rig.models().values())
    health, listed = rig.daemon.health(), rig.models()
    given_up = {entry["model_id"] for entry in [*health["activation"]["failed"], *health["lost"]]}
    assert not given_up & listed.keys(), f"I8: {given_up & listed.keys()} failed, and is listed"
    for model in listed:
        outcome = rig.answer(model, max_tokens=4)
        assert outcome.ending is Ending.COMPLETE, f"I8: {model} is listed and does not answer: {outcome}"


def check_bad_requests_change_nothing(rig: Rig) -> None:
    before = state(rig)
    for name, (path, body) in BAD_REQUESTS.items():
        reply = rig.daemon.client.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.is_client_error, f"I11: {name} was answered {reply.status_code}: {reply.text[:200]}"
        assert reply.json()["error"], f"I11: {name} was answered {reply.text[:200]}"
    assert state(rig) == before, f"I11: bad requests changed {before} into {state(rig)}"


def check_log(rig: Rig) -> None:
    log = rig.daemon.log
    texts = [exchange.outcome().text for exchange in rig.exchanges]
    told = told_secrets(log, [SECRET, KEY, *texts])
    assert not told, f"I9: the log holds {told[0]!r}"
    assert "Traceback" not in log, f"a bug: {log[log.index('Traceback') :][:2000]}"


def told_secrets(log: str, secrets: Iterable[str]) -> list[str]:
    """Those of the secrets that the log tells; what is too short to be one is none."""
    return [
        secret for secret in secrets if len(secret.strip()) >= LONG_TEXT or secret in {SECRET, KEY} if secret in log
    ]


def overlapping_loads(log: str) -> set[str]:
    """Ids of which a load began while another of theirs was running."""
    running: Counter[str] = Counter()
    overlapping = set()
    for line in log.splitlines():
        if began := LOAD_BEGINS.search(line):
            running[began[1]] += 1
            if running[began[1]] > 1:
                overlapping.add(began[1])
        elif ended := LOAD_ENDS.search(line):
            running[ended[1]] = 0
    return overlapping


def state(rig: Rig) -> Any:
    """What a bad request could change. Memory is measured, so it changes without any request."""
    health = rig.daemon.health()
    models = [
        {key: value for key, value in model.items() if key not in {"ram_used_mb", "vram_used_mb"}}
        for model in rig.daemon.client.get("/models").json()
    ]
    return models, health["activation"], health["lost"], health["loading"]


def expect(rig: Rig, promise: str, look: Callable[[], Any]) -> None:
    """Wait for what was promised."""
    try:
        eventually(look, within_s=rig.patience_s * slowness())
    except AssertionError:
        raise AssertionError(promise) from None
