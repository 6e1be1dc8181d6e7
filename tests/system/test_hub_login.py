"""The hub of the environment: `HF_ENDPOINT`, the token, the cache, and a token that is never quoted."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.fakehub import fake_hub
from tests.system.daemon import run_neuron, running_daemon
from tests.system.fetches import defaults, large_model

pytestmark = pytest.mark.system

TOKEN = "hf_SECRET+0123456789"  # noqa: S105
PARTS = ("hf_SECRET", "0123456789", quote(TOKEN, safe=""))
FILES = {"org/name": {"m-Q8_0.gguf": large_model()}}


def environment(hub: str, home: Path, token: str) -> Mapping[str, str]:
    return {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN": token}


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"\r\n{TOKEN}\r\n", f"{TOKEN}\n\n"])
def test_a_token_from_a_file_that_ends_in_a_line_break_opens_the_hub(tmp_path: Path, token: str) -> None:
    with fake_hub(FILES, token=TOKEN, private=FILES) as hub:
        done = run_neuron("pull", "org/name", environ=environment(hub.url, tmp_path, token))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "hub")
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


def test_the_token_of_a_login_opens_the_hub(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with fake_hub(FILES, token=TOKEN, private=FILES) as hub:
        done = run_neuron("pull", "org/name", environ=environment(hub.url, tmp_path, ""))
    assert done.returncode == 0, done.stderr
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


def test_a_token_that_cannot_be_sent_is_refused_for_good_and_never_quoted(tmp_path: Path) -> None:
    token = TOKEN.replace("+", "\n")
    with fake_hub(FILES, token=TOKEN, private=FILES) as hub:
        environ = environment(hub.url, tmp_path, token)
        with running_daemon(tmp_path / "run", defaults("org/name"), environ=environ) as daemon:
            health = daemon.wait_ready()  # it has not waited for another try
            [failed] = health["activation"]["failed"]
            assert "the token in HF_TOKEN cannot be sent" in failed["error"]
            refused = daemon.client.post("/models/load", json={"model_id": "org/name", "harness": "llamacpp"})
            assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
            assert "HF_TOKEN" in refused.json()["error"]["message"]
            told = [str(health), refused.text, daemon.client.get("/health").text]
        told.append(daemon.log)
        pulled = run_neuron("pull", "org/name", environ=environ)
        assert pulled.returncode == 1  # and not the status of what may work later
        told += [pulled.stdout, pulled.stderr]
    assert not [text for text in told if any(part in text for part in PARTS)]
    assert not hub.requests


def test_a_repository_that_is_missing_is_told_in_one_sentence_of_our_own(tmp_path: Path) -> None:
    with fake_hub({}) as hub:
        pulled = run_neuron("pull", "org/missing", environ=environment(hub.url, tmp_path, ""))
    assert pulled.returncode == 1
    assert pulled.stderr.splitlines()[-1] == (
        f"neuron: huggingface:org/missing at {hub.url}, asked with no token (there is none in HF_TOKEN): "
        "there is no such repository, or it is private"
    )


def test_an_impossible_address_stops_every_command_and_is_not_quoted(tmp_path: Path) -> None:
    environ = environment("https://user:hf_SECRET@h", tmp_path, "")
    for arguments in (("serve", "--check-config"), ("pull", "org/name")):
        done = run_neuron(*arguments, environ=environ)
        assert done.returncode == 78
        assert "neuron: HF_ENDPOINT: expected an http or https address" in done.stderr
        assert "SECRET" not in done.stderr
