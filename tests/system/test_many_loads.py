"""Many loads at once against a hub that is silent: few processes, and a host that answers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fakes.wire_shapes import read_health
from tests.faults.gateway import Gateway
from tests.system.daemon import black_hole, eventually, running_daemon
from tests.system.fetches import fetch_pids, source

pytestmark = pytest.mark.system

LOADS = 40


def test_forty_loads_are_two_fetch_processes_and_a_line_that_health_shows_and_clients_can_leave(tmp_path: Path) -> None:
    ids = [f"org/m{number}" for number in range(LOADS)]
    with black_hole() as url, running_daemon(tmp_path, source(url, tmp_path / "cache")) as daemon:

        def load(model_id: str) -> int:
            body = {"model_id": model_id, "harness": "llamacpp"}
            return httpx.post(f"{daemon.url}/models/load", json=body, timeout=60, trust_env=False).status_code

        def waiting() -> dict[int, str]:
            loads = read_health(daemon.client.get("/health").content).loading
            found = {int(load.progress.queue_position): load.model_id for load in loads if load.progress.queue_position}
            return found if len(found) == LOADS - 2 else {}

        with Gateway(daemon.port) as gateway, ThreadPoolExecutor(LOADS) as pool:
            answers = [pool.submit(load, model_id) for model_id in ids]
            line = eventually(waiting)
            assert sorted(line) == list(range(1, LOADS - 1))
            assert len(fetch_pids(daemon)) == 2
            # The first ones leave, and others begin in their place. Then the line leaves from its end: few begin.
            for model_id in (*ids[:6], *reversed(ids[6:])):
                assert daemon.client.post("/models/unload", json={"model_id": model_id}).status_code == httpx.codes.OK
                assert len(fetch_pids(daemon)) <= 2
            assert {answer.result() for answer in answers} == {httpx.codes.BAD_REQUEST}
            eventually(lambda: not fetch_pids(daemon))
        assert gateway.misses == []
        assert daemon.log.count("model load waits: ") == LOADS - 2
