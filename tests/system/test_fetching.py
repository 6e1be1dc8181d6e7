"""What an operator sees if a model cannot be fetched. The words are the same in `/health`, in the answer to a load, in
the log and in the output of `neuron pull`. Other models are not affected.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Struct

from tests.fakehub import fake_hub
from tests.fakes.hub_faults import Corrupt, Cut, Drip, EtagChange, Fault, Moves, Redirect, Status
from tests.fakes.wire_shapes import read_health
from tests.system.daemon import Daemon, chat, eventually, run_neuron, running_daemon
from tests.system.fetches import defaults, large_model, mounted, source, split_model

pytestmark = [pytest.mark.system, pytest.mark.model]

NOWHERE = "http://127.0.0.1:9"
A_DAY_S = 86400


class Refusal(Struct, frozen=True):
    """A load that fails for good: its kind, words of its message, and the fields beside the message."""

    model_id: str
    kind: str
    words: Sequence[str] = ()
    beside: dict[str, Any] = {}
    quant: str | None = None


REFUSALS = {
    "no such repository": Refusal("org/missing", "repo_not_found", ["org/missing", "no token"]),
    "gated": Refusal("org/gated", "gated_repo", ["org/gated", "no token"]),
    "no such revision": Refusal("fleet/branch", "revision_not_found", ["org/good", "gone"]),
    "no such quant": Refusal(
        "fleet/quant",
        "quant_not_found",
        ["Q5_K_M"],
        {"requested": "Q5_K_M", "available": ["m-q4_k_m.gguf", "m-q8_0.gguf"], "nearest": "q4_k_m"},
    ),
    "weights for other engines only": Refusal("org/tensors", "gguf_required", ["GGUF", "org/tensors-GGUF"]),
    "nothing to load": Refusal("org/prose", "empty_repo"),
    "wrong bytes": Refusal("org/wrong", "checksum_mismatch", ["m-Q8_0.gguf", "SHA-256"], {"file": "m-Q8_0.gguf"}),
    "no model in the file": Refusal("org/nonsense", "invalid_gguf", ["m-Q8_0.gguf"]),
}
UNAVAILABLE = {
    "hub down": ("org/down", ["ConnectError", NOWHERE]),
    "hub wants to be left alone for a day": ("org/busy", ["429"]),
}
ENTRIES = """
[[models]]
id = "fleet/branch"
repo = "org/good"
revision = "gone"

[[models]]
id = "fleet/quant"
repo = "org/good"
quant = "Q5_K_M"

[[models]]
id = "org/down"
repo = "down:org/down"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has tried all of its default models once."""
    folder = tmp_path_factory.mktemp("daemon")
    model = {"m-Q8_0.gguf": large_model()}
    repositories = {
        "org/good": {**model, "m-Q4_K_M.gguf": large_model()},
        "org/gated": model,
        "org/tensors": {"model.safetensors": b"weights", "config.json": b"{}"},
        "org/prose": {"README.md": b"# Nothing"},
        "org/wrong": model,
        "org/nonsense": {"m-Q8_0.gguf": b"This is no model. " * 10},
        "org/busy": model,
    }
    failing = [refusal.model_id for refusal in REFUSALS.values()]
    passing = [model_id for model_id, _ in UNAVAILABLE.values()]
    with fake_hub(repositories, gated=["org/gated"]) as hub:
        hub.fail(Corrupt(), path="*/org/wrong/resolve/*")
        hub.fail(Status(429, {"Retry-After": str(A_DAY_S)}), path="*/org/busy*")
        config = (
            defaults(*passing, *failing, "org/good")
            + ENTRIES
            + source(hub.url, folder / "cache")
            + source(NOWHERE, folder / "cache", name="down")
        )
        with running_daemon(folder, config) as daemon:
            eventually(lambda: daemon.health()["activation"]["completed"])
            yield daemon


def load(daemon: Daemon, model_id: str, quant: str | None = None) -> httpx.Response:
    return daemon.client.post("/models/load", json={"model_id": model_id, "harness": "llamacpp", "quant": quant})


def warnings(daemon: Daemon, text: str, model_id: str) -> list[str]:
    """Wait for warnings about a model, and return them. The log is written after the answers."""
    return eventually(
        lambda: [
            line
            for line in daemon.log.splitlines()
            if f"WARNING neuron_{text}" in line and f" model_id={model_id} " in f"{line} "
        ]
    )


def pull(daemon: Daemon, model_id: str) -> tuple[int, str]:
    """Exit status and last line of `neuron pull`, which prints no path."""
    done = run_neuron("pull", model_id, "--config", str(daemon.config_path))
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()[-1]


def assert_told(daemon: Daemon, refusal: Refusal) -> None:
    """Check everything that shows a default model that was refused."""
    failed = {failed["model_id"]: failed["error"] for failed in daemon.health()["activation"]["failed"]}
    message = failed[refusal.model_id]
    assert all(word in message for word in refusal.words)

    answer = load(daemon, refusal.model_id)
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    error = answer.json()["error"]
    assert (error["kind"], error["message"]) == (refusal.kind, message)
    assert {name: error[name] for name in refusal.beside} == refusal.beside

    (at_start,) = warnings(daemon, "lib.registry.startup: failed to load default model", refusal.model_id)
    (at_load,) = warnings(daemon, "service.refusals: request refused", refusal.model_id)
    assert message in at_start
    assert message in at_load
    assert f" kind={refusal.kind}" in at_start
    assert f" error_kind={refusal.kind}" in at_load

    assert pull(daemon, refusal.model_id) == (1, f"neuron: {message}")


@pytest.mark.parametrize("refusal", [pytest.param(refusal, id=name) for name, refusal in REFUSALS.items()])
def test_a_refusal_is_told_in_the_same_words_to_everybody(daemon: Daemon, refusal: Refusal) -> None:
    assert_told(daemon, refusal)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        pytest.param(
            "size=1m", Refusal("org/name", "insufficient_storage", ["free", "/small"]), id="no room on the disk"
        ),
        pytest.param("ro", Refusal("org/name", "cache_not_writable", ["Read-only", "/small"]), id="read-only disk"),
    ],
)
def test_a_refusal_because_of_the_disk_is_told_in_the_same_words_to_everybody(
    tmp_path: Path, options: str, refusal: Refusal
) -> None:
    small = tmp_path / "small"
    with ExitStack() as held:
        held.enter_context(mounted(small, options))
        hub = held.enter_context(fake_hub({"org/name": {"m-Q8_0.gguf": large_model()}}))
        daemon = held.enter_context(running_daemon(tmp_path, defaults("org/name") + source(hub.url, small / "cache")))
        daemon.wait_ready()
        assert_told(daemon, refusal)
        assert not [request for request in hub.requests if "/resolve/" in request]


@pytest.mark.parametrize(("model_id", "words"), [pytest.param(*case, id=name) for name, case in UNAVAILABLE.items()])
def test_a_source_that_is_away_is_asked_again_later_for_a_default_model_and_told_at_once_to_others(
    daemon: Daemon, model_id: str, words: Sequence[str]
) -> None:
    activation = daemon.health()["activation"]
    assert activation["state"] == "pre_warming"
    assert model_id in {*activation["pending"], activation["in_progress"]}

    answer = load(daemon, model_id)
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    error = answer.json()["error"]
    assert error["kind"] == "repo_fetch_failed"
    assert all(word in error["message"] for word in words)

    (later,) = [
        line
        for line in warnings(daemon, "lib.registry.startup: source of default model unavailable, will retry", model_id)
        if " attempt=1 " in line
    ]
    assert error["message"] in later
    assert " retry_in_s=10.0" in later
    assert error["message"] in warnings(daemon, "service.refusals: request refused", model_id)[-1]
    status, line = pull(daemon, model_id)
    assert status == os.EX_TEMPFAIL
    assert line.startswith(f"neuron: {error['message']}; try again later")


def test_failed_fetches_do_no_harm_to_another_model(daemon: Daemon) -> None:
    health = read_health(daemon.client.get("/health").content)
    assert health.activation.completed == ["org/good"]
    assert {failed.model_id for failed in health.activation.failed} == {r.model_id for r in REFUSALS.values()}
    assert health.lost == []
    assert [model.id for model in health.models] == ["org/good"]
    assert daemon.client.post("/v1/chat/completions", json=chat("org/good")).status_code == httpx.codes.OK
    assert "ERROR" not in daemon.log
    assert "Traceback" not in daemon.log


def test_a_load_with_a_quant_that_is_not_there_is_refused_with_the_quants_that_are(daemon: Daemon) -> None:
    error = load(daemon, "org/gated", quant="q2_k").json()["error"]
    assert (error["kind"], error["available"]) == ("quant_not_found", ["m-q8_0.gguf"])


# ------------------------------------------------------------------------------------- what a load gets over by itself

TROUBLES: dict[str, tuple[Fault, str, str]] = {
    "org/hiccup": (Status(503), "*/api/models/org/hiccup*", "asking again in"),
    "org/breath": (Status(429, {"Retry-After": "1"}), "*/org/breath/resolve/*", "going on from byte 0 in 1 s"),
    "org/cut": (Cut(3_000_000), "*/org/cut/resolve/*", "going on from byte"),
    "org/once-wrong": (Corrupt(), "*/org/once-wrong/resolve/*", "deleted, fetching it again"),
    "org/other-tag": (EtagChange(), "*/org/other-tag/resolve/*", ""),
    "org/moving": (Moves(), "*/org/moving/*", ""),
}
"""By model: the fault that happens once, the path that it happens to, and words of the warning about it."""
UNCHECKED = '[harness.llamacpp]\nmemory_check = "warn"\n'


def test_a_passing_fault_is_retried_and_shown_in_the_log_alone(tmp_path: Path) -> None:
    repositories = {model_id: {"m-Q8_0.gguf": large_model()} for model_id in TROUBLES}
    with fake_hub(repositories) as hub:
        for fault, path, _ in TROUBLES.values():
            hub.fail(fault, path=path, times=1)
        # Without a check of the memory no header is fetched first, so that each fault happens to the file itself.
        config = defaults(*TROUBLES) + source(hub.url, tmp_path / "cache") + UNCHECKED
        with running_daemon(tmp_path, config) as daemon:
            daemon.wait_ready()
            health = daemon.health()
            assert health["activation"]["completed"] == list(TROUBLES)
            assert health["activation"]["failed"] == []
            for model_id, (_, _, words) in TROUBLES.items():
                assert daemon.client.post("/v1/chat/completions", json=chat(model_id)).status_code == httpx.codes.OK
                assert "already loaded" in load(daemon, model_id).json()["error"]
                if words:
                    assert any(words in line for line in warnings(daemon, "lib.sources.fetch_worker", model_id))
                if model_id != "org/moving":  # whose branch has moved to something that is no model
                    assert run_neuron("pull", model_id, "--config", str(daemon.config_path)).returncode == 0
            assert "ERROR" not in daemon.log


def test_the_parts_of_a_split_model_are_fetched_and_loaded_as_one(tmp_path: Path) -> None:
    parts = split_model()
    assert len(parts) == 3
    with (
        fake_hub({"org/split": parts}) as hub,
        running_daemon(tmp_path, defaults("org/split") + source(hub.url, tmp_path / "cache")) as daemon,
    ):
        daemon.wait_ready()
        assert daemon.health()["activation"]["completed"] == ["org/split"]
        assert daemon.client.post("/v1/chat/completions", json=chat("org/split")).status_code == httpx.codes.OK
        listed = run_neuron("ls", "--json", "--config", str(daemon.config_path)).stdout
        (model,) = json.loads(listed)["models"]
        assert (model["files"], model["is_verified"]) == (sorted(parts), True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Cut(1000), "received 1000 bytes", id="cut off every time"),
        pytest.param(Drip(500), "less than 1000 KiB/s for 1 s", id="too slow"),
        pytest.param(Redirect("{path}"), "redirect", id="sent in circles"),
        pytest.param(Redirect("file:///etc/passwd"), "file", id="sent to a file"),
    ],
)
def test_a_hub_that_does_not_deliver_a_file_is_asked_again_later(tmp_path: Path, fault: Fault, words: str) -> None:
    slow = "[harness.llamacpp.download]\nmin_kb_per_s = 1000\nmin_rate_window_secs = 1\n"
    slow += UNCHECKED  # no header first, so that the fault happens to the file itself
    with fake_hub({"org/name": {"m-Q8_0.gguf": large_model()}}) as hub:
        hub.fail(fault, path="*/resolve/*")
        with running_daemon(tmp_path, defaults("org/name") + source(hub.url, tmp_path / "cache") + slow) as daemon:
            (later,) = warnings(
                daemon, "lib.registry.startup: source of default model unavailable, will retry", "org/name"
            )
            assert words in later
            assert daemon.health()["activation"]["pending"] == ["org/name"]
            error = load(daemon, "org/name").json()["error"]
            assert error["kind"] == "repo_fetch_failed"
            assert words in error["message"]
            status, line = pull(daemon, "org/name")
            assert status == os.EX_TEMPFAIL
            assert words in line
            assert daemon.client.get("/models").json() == []
            assert "Traceback" not in daemon.log
