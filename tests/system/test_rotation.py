"""Two hosts behind a gateway: one of them is told to stop in mid-reply, and the traffic moves to the other."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.fakes.wire_shapes import read_health, read_models
from tests.faults.gateway import Gateway
from tests.system.daemon import MODELS, Daemon, chat, eventually, hold, let_go, running_daemon, stream_payloads
from tests.system.fetches import defaults

pytestmark = [pytest.mark.system, pytest.mark.model]

MODEL = "test/one"
CHAT = "/v1/chat/completions"
CONFIG = defaults(MODEL) + MODELS


@dataclass
class Router:
    """Sends each request to the least busy host that listed the model as loaded at the last poll, as `cortex` does.

    Of hosts that are equally busy the first gets it.
    """

    hosts: list[Daemon]
    load_of: dict[int, int] = field(default_factory=dict)

    def poll(self) -> None:
        self.load_of = {}
        for index, host in enumerate(self.hosts):
            for model in read_models(host.client.get("/models").content):
                if (model.id, model.status) == (MODEL, "loaded"):
                    loads = {load.id: load for load in read_health(host.client.get("/health").content).models}
                    self.load_of[index] = loads[MODEL].in_flight + loads[MODEL].queue_depth

    def ask(self) -> httpx.Response:
        host = self.hosts[min(self.load_of, key=lambda index: (self.load_of[index], index))]
        endpoint = host.client.get(f"/models/{MODEL}/endpoint")
        assert endpoint.status_code == httpx.codes.OK, "a gateway makes a 404 of it and tries no other host"
        return host.client.post(CHAT, json=chat(MODEL, max_tokens=1))


def test_a_host_that_drains_loses_its_traffic_at_the_next_poll_and_its_running_reply_ends_well(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "a", CONFIG) as leaving, running_daemon(tmp_path / "b", CONFIG) as staying:
        for host in (leaving, staying):
            host.wait_ready()
        router = Router([leaving, staying])
        router.poll()
        assert router.ask().status_code == httpx.codes.OK
        (engine,) = leaving.engine_pids()
        with (
            Gateway(leaving.port) as gateway,
            leaving.client.stream("POST", CHAT, json=chat(MODEL, stream=True, max_tokens=24)) as reply,
        ):
            payloads = stream_payloads(reply.iter_lines())
            next(payloads)
            hold(engine)
            leaving.signal(signal.SIGTERM)
            eventually(lambda: "SIGTERM received, draining" in leaving.log)
            late = router.ask()  # before the gateway polls again
            assert (late.status_code, late.headers["retry-after"]) == (httpx.codes.SERVICE_UNAVAILABLE, "15")
            router.poll()
            assert list(router.load_of) == [1]
            assert [router.ask().status_code for _ in range(5)] == [httpx.codes.OK] * 5
            statuses = [model.status for model in read_models(leaving.client.get("/models").content)]
            assert statuses == ["recovering"]
            gateway.stop()
            let_go(engine)
            *_, last = payloads
            assert last == "[DONE]"
        assert gateway.misses == []
        assert leaving.wait() == 0
