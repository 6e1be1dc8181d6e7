"""One id, with its quant, from the configuration to a chat and back out, as a client and a gateway write it."""

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.fakehub import fake_hub
from tests.system.daemon import chat, running_daemon
from tests.system.fetches import large_model, source

pytestmark = pytest.mark.system

ID = "org/name:Q8_0"


def test_an_id_with_a_quant_is_the_same_id_everywhere(tmp_path: Path) -> None:
    files = {"m-Q4_K_M.gguf": b"not asked for", "m-Q8_0.gguf": large_model()}
    with fake_hub({"org/name": files}) as hub:
        config = f"""
default_models = [{{ model_id = "hf.co/{ID}", harness = "llamacpp" }}]
{source(hub.url, tmp_path / "cache")}
"""
        with running_daemon(tmp_path / "run", config) as daemon:
            assert daemon.wait_ready()["activation"]["completed"] == [ID]
            client = daemon.client
            (model,) = client.get("/models").json()
            assert model["id"] == ID
            assert [load["id"] for load in daemon.health()["models"]] == [ID]
            assert client.get(f"/models/{quote(ID, safe='')}/endpoint").status_code == httpx.codes.OK
            assert client.get(f"/models/{quote(ID, safe='')}/capabilities").json() == {"capabilities": ["text"]}
            for spelled in (ID, "org/name:q8-0", "org/name", f"huggingface:{ID}", f"https://huggingface.co/{ID}"):
                reply = client.post("/v1/chat/completions", json=chat(spelled))
                assert (reply.status_code, reply.json()["model"]) == (httpx.codes.OK, spelled)
            assert (
                client.post("/v1/chat/completions", json=chat("org/name:Q4_K_M")).status_code == httpx.codes.NOT_FOUND
            )
            again = client.post("/models/load", json={"model_id": ID, "harness": "llamacpp"})
            assert "already loaded" in again.text
            two = {"model_id": ID, "harness": "llamacpp", "quant": "Q4_K_M"}
            assert client.post("/models/unload", json={"model_id": ID}).status_code == httpx.codes.OK
            refused = client.post("/models/load", json=two)
            assert refused.status_code == httpx.codes.BAD_REQUEST
            assert "names a quant, and the request another" in refused.json()["error"]
