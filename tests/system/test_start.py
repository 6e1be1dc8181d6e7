"""What a host reports while it starts, and after a start that failed."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.fakes.wire_shapes import read_health, read_models
from tests.patience import PATIENCE_S
from tests.system.daemon import COMMAND, MODELS, black_hole, chat, eventually, free_port, run_neuron, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]


def defaults(*model_ids: str, harness: str = "llamacpp") -> str:
    entries = "".join(f'  {{ model_id = "{model_id}", harness = "{harness}" }},\n' for model_id in model_ids)
    return f"default_models = [\n{entries}]\n"


def test_a_host_answers_before_its_first_model_is_loaded_and_says_what_is_to_come(tmp_path: Path) -> None:
    with black_hole() as hub:
        config = f'{defaults("slow:test/far", "test/one")}{MODELS}\n[harness.llamacpp.sources.slow]\nendpoint = "{hub}"'
        with running_daemon(tmp_path, config) as daemon:
            first = read_health(daemon.client.get("/health").content)
            assert first.activation.state == "pre_warming"
            assert [*filter(None, [first.activation.in_progress]), *first.activation.pending] == [
                "test/far",
                "test/one",
            ]
            assert read_models(daemon.client.get("/models").content) == []
            assert daemon.client.get("/discovery").json()["max_prompt_tokens"] == 16384

            (load,) = eventually(lambda: daemon.health()["loading"])
            assert (load["model_id"], load["progress"]["stage"]) == ("test/far", "resolving")
            for model_id, stage in (("test/one", "pending"), ("test/far", "resolving")):
                early = daemon.client.post("/v1/chat/completions", json=chat(model_id))
                assert (early.status_code, early.headers["retry-after"]) == (httpx.codes.SERVICE_UNAVAILABLE, "5")
                assert (early.json()["error"]["code"], early.json()["error"]["stage"]) == ("model_loading", stage)
                assert daemon.client.get(f"/models/{model_id}/endpoint").json() == {
                    "url": f"http://localhost:{daemon.port}"
                }
            # Somebody who cannot wait for it loads the second one on demand.
            spec = {"model_id": "test/one", "harness": "llamacpp"}
            assert daemon.client.post("/models/load", json=spec).status_code == httpx.codes.OK
            activation = read_health(daemon.client.get("/health").content).activation
            assert (activation.in_progress, activation.pending, activation.completed) == ("test/far", [], ["test/one"])
            assert daemon.client.post("/v1/chat/completions", json=chat("test/one")).status_code == httpx.codes.OK


def test_a_host_loads_every_default_model_in_order_and_is_then_ready(tmp_path: Path) -> None:
    with running_daemon(tmp_path, defaults("test/two", "test/one") + MODELS) as daemon:
        first = daemon.health()
        assert (first["activation"]["state"], first["models"]) == ("pre_warming", [])
        ready = daemon.wait_ready()
        assert ready["activation"]["completed"] == ["test/two", "test/one"]
        assert [model["id"] for model in ready["models"]] == ["test/two", "test/one"]
        eventually(lambda: daemon.log.count("loaded default model") == 2)


def test_each_broken_default_model_is_reported_in_full_and_harms_no_other_model(tmp_path: Path) -> None:
    no_gguf = tmp_path / "prose.gguf"
    no_gguf.write_text("This is no model. " * 100)
    config = f"""
default_models = [
  {{ model_id = "test/steam", harness = "steam" }},
  {{ model_id = "test/missing", harness = "llamacpp" }},
  {{ model_id = "test/prose", harness = "llamacpp" }},
  {{ model_id = "no id at all", harness = "llamacpp" }},
  {{ model_id = "test/one", harness = "llamacpp" }},
]
{MODELS}
[[models]]
id = "test/missing"
path = "{tmp_path}/missing.gguf"

[[models]]
id = "test/prose"
path = "{no_gguf}"
""".replace("[harness.llamacpp]", f'[harness.llamacpp]\nlocal_roots = ["{tmp_path}"]')
    with running_daemon(tmp_path, config) as daemon:
        activation = daemon.wait_ready()["activation"]
        reasons = {failed["model_id"]: failed["error"] for failed in activation["failed"]}
        assert activation["completed"] == ["test/one"]
        assert list(reasons) == ["test/steam", "test/missing", "test/prose", "no id at all"]
        assert "steam" in reasons["test/steam"]
        assert "missing.gguf" in reasons["test/missing"]
        assert "GGUF" in reasons["test/prose"]
        assert "no id at all" in reasons["no id at all"]
        for model_id, reason in reasons.items():
            (line,) = [
                line for line in daemon.log.splitlines() if "failed to load default model" in line and model_id in line
            ]
            assert reason in line
        # What can be known without a load is said at the start, in the words of --check-config.
        places = ("default_models[0].harness", "default_models[3].model_id", "models[2].path")
        eventually(lambda: all(f"configuration: `{place}`: " in daemon.log for place in places))
        assert [model["id"] for model in daemon.client.get("/models").json()] == ["test/one"]
        assert daemon.client.post("/v1/chat/completions", json=chat("test/one")).status_code == httpx.codes.OK


def test_a_host_whose_default_models_all_fail_serves_on(tmp_path: Path) -> None:
    config = defaults("test/three", "test/four").replace('"llamacpp"', '"steam"')
    with running_daemon(tmp_path, config + MODELS) as daemon:
        activation = daemon.wait_ready()["activation"]
        assert activation["completed"] == []
        assert [failed["model_id"] for failed in activation["failed"]] == ["test/three", "test/four"]
        spec = {"model_id": "test/one", "harness": "llamacpp"}
        assert daemon.client.post("/models/load", json=spec).status_code == httpx.codes.OK
        assert [model["id"] for model in daemon.health()["models"]] == ["test/one"]


def test_a_host_without_default_models_is_ready_at_once_and_says_nothing_about_them(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        assert daemon.health()["activation"] == {
            "state": "ready", "pending": [], "in_progress": None, "completed": [], "failed": [],
        }  # fmt: skip
        daemon.client.get("/discovery")
        assert "default model" not in daemon.log
        assert "WARNING" not in daemon.log


def test_a_host_whose_output_nobody_reads_still_serves(tmp_path: Path) -> None:
    port = free_port()
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "--port", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, cwd=tmp_path)
    os.close(writer)
    try:
        eventually(lambda: process.poll() is not None or answers(port))
        assert answers(port)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&- >&-", ">&- 2>&-"])
def test_a_host_that_is_started_without_standard_streams_loads_and_answers(tmp_path: Path, closed: str) -> None:
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
    with running_daemon(tmp_path, defaults("test/one") + MODELS, prefix=shell, port=free_port()) as daemon:
        assert daemon.wait_ready()["activation"]["completed"] == ["test/one"]
        assert daemon.client.post("/v1/chat/completions", json=chat("test/one")).status_code == httpx.codes.OK
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


# ----------------------------------------------------------------------------------------------------- never started


def test_a_port_that_is_taken_is_exit_71_and_names_the_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_neuron("--demo", "--port", str(port))
    assert (done.returncode, done.stdout) == (os.EX_OSERR, "")
    assert done.stderr == (
        f"neuron: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "stop what listens there (`ss -lntp` names it), or choose another port with --port\n"
    )


def test_a_configuration_that_is_wrong_is_exit_78_and_one_line_that_names_the_key(tmp_path: Path) -> None:
    config = tmp_path / "neuron.toml"
    config.write_text("[harness.llamacpp]\nn_cxt = 1024\n")
    done = run_neuron("serve", "-c", str(config))
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.startswith(f"neuron: {config}: unknown key `harness.llamacpp.n_cxt`; did you mean `n_ctx`?")
    assert done.stderr.count("\n") == 1
