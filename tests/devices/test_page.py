"""The page about one model over several hosts, done as it says, with both servers on this machine."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.devices.servers import require_program
from tests.documents import ROOT, blocks
from tests.patience import PATIENCE_S
from tests.system.daemon import chat, eventually, free_port, run_commands, run_neuron, running_daemon

PAGE = "docs/how-to/one-model-over-several-hosts.md"
DEPLOY, START, LOOK = blocks(PAGE, "sh")
(CONFIG,) = blocks(PAGE, "toml")
(UNIT,) = blocks(PAGE, "ini")
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.system
def test_servers_that_are_started_as_the_page_says_hold_the_model_of_its_configuration(
    tmp_path: Path, smollm2_path: Path
) -> None:
    require_program()
    model = smollm2_path.resolve()
    config = CONFIG.replace("/srv/models/large.gguf", str(model)).replace("/srv/models", str(model.parent))
    with ExitStack() as stack:
        for address in re.findall(r"10\.0\.0\.\d:50052", CONFIG):
            port = free_port()
            words = START.replace("/opt/neuron/bin/python", sys.executable).replace("10.0.0.2", "127.0.0.1")
            command = words.replace("--threads 8", "--threads 1").replace("50052", str(port)).split()
            server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.kill)
            config = config.replace(address, f"127.0.0.1:{port}")
        file = tmp_path / "neuron.toml"
        file.write_text(config)
        look, ask = LOOK.splitlines()
        assert look == "neuron doctor"

        def answered() -> bool:
            checks = json.loads(run_neuron("doctor", "--config", str(file), "--json").stdout)["checks"]
            return [each["status"] for each in checks if each["check"] == "rpc"] == ["ok", "ok"]

        eventually(answered)
        with running_daemon(tmp_path / "daemon", f"{config}n_ctx = 512\nthreads = 1\n") as daemon:
            health = daemon.wait_ready()
            assert health["activation"]["failed"] == []
            shown = json.loads(run_commands(ask, daemon))["rpc_servers"]
            assert [(each["state"], each["devices"]) for each in shown] == [("in_use", [0]), ("in_use", [1])]
            reply = daemon.client.post("/v1/chat/completions", json=chat("acme/large"))
            assert reply.json()["choices"][0]["message"]["content"]


@pytest.mark.process
def test_the_server_program_comes_with_what_the_page_deploys() -> None:
    command = DEPLOY.replace("make ", "make --dry-run ", 1)
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    assert b"scripts/install_runtime.py" in done.stdout


@pytest.mark.process
@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_the_unit_of_the_page_has_no_fault_and_starts_what_the_page_starts(tmp_path: Path) -> None:
    assert f"ExecStart={START}" in UNIT
    unit = tmp_path / "neuron-rpc.service"
    unit.write_text(UNIT.replace("/opt/neuron/bin/python", "/bin/true"))
    done = subprocess.run(
        [str(ANALYZE), "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
