"""Models that are loaded by the requests that name them, by the real program. Also the how-to about that."""

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.documents import blocks
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S
from tests.system.daemon import chat, eventually, run_commands, run_neuron, running_daemon

pytestmark = pytest.mark.system

HOW_TO = "docs/how-to/load-on-demand.md"
ON_DEMAND, EXCLUSIVE = blocks(HOW_TO, "toml")
(ASK,) = blocks(HOW_TO, "sh")
SMALL, LARGE, OTHER = "acme/small", "acme/large", "acme/other"
CLIENTS, TURNS = 8, 3


def page_config(folder: Path, *, more: str = "") -> str:
    """The configuration of the page, with small files, and with `more` in the table `[residency]`."""
    for name in ("small", "large", "other"):
        write_synthetic(folder / f"{name}.gguf", "full")
    config = ON_DEMAND.replace("/srv/models", str(folder))
    return config.replace("[residency]\n", f"[residency]\n{more}\n").replace(
        "[harness.llamacpp]\n", "[harness.llamacpp]\nn_ctx = 512\n"
    )


def test_the_command_of_the_page_loads_the_model_that_it_names(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon", page_config(tmp_path)) as daemon:
        daemon.wait_ready()
        assert [model["id"] for model in daemon.client.get("/models").json()] == [SMALL]
        assert '"finish_reason"' in run_commands(ASK, daemon)
        assert [model["id"] for model in daemon.client.get("/models").json()] == [SMALL, LARGE]
        check = run_neuron("serve", "--check-config", "--config", str(daemon.config_path))
        assert (check.returncode, check.stdout) == (0, "configuration is valid\n"), check.stderr


def test_the_second_configuration_of_the_page_is_that_of_models_that_exclude_each_other() -> None:
    assert tomllib.loads(EXCLUSIVE) == {"residency": {"on_demand": True, "exclusive": [[LARGE, OTHER]]}}


def test_clients_of_two_models_that_must_not_be_here_together_are_all_answered(tmp_path: Path) -> None:
    config = page_config(tmp_path, more=f'min_resident_secs = 1\nexclusive = [["{LARGE}", "{OTHER}"]]')
    with running_daemon(tmp_path / "daemon", config) as daemon:
        daemon.wait_ready()

        def ask(number: int) -> set[int]:
            answers = set()
            for turn in range(TURNS):
                body = chat((LARGE, OTHER)[(number + turn) % 2], max_tokens=8)
                url = f"{daemon.url}/v1/chat/completions"
                answers.add(httpx.post(url, json=body, timeout=PATIENCE_S, trust_env=False).status_code)
            return answers

        with ThreadPoolExecutor(CLIENTS) as pool:
            assert set().union(*pool.map(ask, range(CLIENTS))) == {httpx.codes.OK}
        ids = [model["id"] for model in daemon.client.get("/models").json()]
        assert SMALL in ids
        assert len({LARGE, OTHER} & set(ids)) == 1
        assert daemon.log.count("unloading an idle model to make room") >= TURNS - 1


def test_a_load_that_cannot_fit_is_422_with_its_numbers_and_touches_nothing(tmp_path: Path) -> None:
    config = page_config(tmp_path, more="memory_mb = 90")  # for one engine, not for two
    with running_daemon(tmp_path / "daemon", config) as daemon:
        daemon.wait_ready()
        before = [model["id"] for model in daemon.client.get("/models").json()]
        reply = daemon.client.post("/models/load", json={"model_id": LARGE, "harness": "llamacpp"})
        error = reply.json()["error"]
        assert (reply.status_code, error["kind"], error["device"]) == (422, "insufficient_memory", "cpu")
        assert error["needed_mb"] > error["free_mb"]
        assert [model["id"] for model in daemon.client.get("/models").json()] == before == [SMALL]
        assert daemon.client.post("/v1/chat/completions", json=chat(SMALL, max_tokens=4)).is_success


def test_an_idle_model_is_unloaded_and_comes_back_with_the_next_request(tmp_path: Path) -> None:
    config = page_config(tmp_path).replace("idle_ttl_secs = 600", "idle_ttl_secs = 1")
    with running_daemon(tmp_path / "daemon", config) as daemon:
        daemon.wait_ready()
        for _ in range(2):
            assert daemon.client.post("/v1/chat/completions", json=chat(OTHER, max_tokens=4)).is_success
            eventually(lambda: OTHER not in [model["id"] for model in daemon.client.get("/models").json()])
        assert daemon.client.get("/readyz").is_success
