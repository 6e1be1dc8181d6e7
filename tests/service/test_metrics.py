"""`GET /metrics`: what is on the page, in which formats, and that clients cannot make it long."""

import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping

import anyio
import anyio.to_thread
import pytest
from anyio import wait_all_tasks_blocked
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from neuron_lib import LoadFailed, load_default_models
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Device, DeviceHealth, Discovery, EngineMeasures, HostCpus, HostMemory
from neuron_service.metrics import page as pages
from neuron_service.metrics.families import families
from neuron_service.metrics.page import Page, make_page
from neuron_service.metrics.snapshot import Snapshot, take_snapshot
from tests.fakes.asgi_client import Reply
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host, spec
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio

A, B = "org/a", "org/b"
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}


class Samples:
    """The samples of a page, by name and labels."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = {metric.name: metric for metric in metrics}

    def value(self, name: str, /, **labels: str) -> float:
        samples = [sample for metric in self.metrics.values() for sample in metric.samples]
        (value,) = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
        return value

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of that name, by the values of their labels, in the order of the names of the labels."""
        samples = [sample for metric in self.metrics.values() for sample in metric.samples if sample.name == name]
        return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


async def scrape(host: ScriptedHost) -> Samples:
    reply = await host.client.get("/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Samples(read_prometheus(reply.body.decode()))


async def test_an_empty_host_has_a_page() -> None:
    async with scripted_host() as host:
        page = await scrape(host)
    assert page.value("neuron_build_info", version="1.2.3", git_sha="abc123def") == 1
    assert page.value("neuron_ready") == 1
    assert set(page.of("neuron_models").values()) == {0}
    assert page.value("process_resident_memory_bytes") > 0


async def test_a_reply_is_counted_with_its_model_its_outcome_and_its_tokens() -> None:
    async with scripted_host(resident=[A]) as host:
        before = await scrape(host)
        assert before.value("neuron_requests_total", model=A, outcome="stop") == 0
        for stream in (True, False):
            assert (await host.client.post(CHAT, chat_body(A, stream=stream))).status == 200
        page = await scrape(host)
    assert page.value("neuron_requests_total", model=A, outcome="stop") == 2
    assert page.value("neuron_prompt_tokens_total", model=A) == 14
    assert page.value("neuron_completion_tokens_total", model=A) == 8
    assert page.value("neuron_request_seconds_count", model=A) == 2
    assert page.value("neuron_first_token_seconds_count", model=A) == 1, "only a streamed reply has a first token"


async def test_a_client_that_hangs_up_and_a_reply_that_breaks_are_outcomes_of_their_own() -> None:
    may_speak = anyio.Event()
    scripts = {A: ScriptedModel(may_speak=may_speak), B: ScriptedModel(reply=("a", LoadFailed("broke")))}
    async with scripted_host(scripts, resident=[A, B]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=True)) as exchange:
            await exchange.chunk()
        await host.client.post(CHAT, chat_body(B, stream=True))
        page = await scrape(host)
    assert page.value("neuron_requests_total", model=A, outcome="abandoned") == 1
    assert page.value("neuron_requests_total", model=B, outcome="failed") == 1


async def test_seats_and_waiting_requests_are_those_of_health() -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1, max_queue_depth=1)
    async with scripted_host({A: script}, resident=[A]) as host:
        body = chat_body(A, stream=True)
        async with host.client.open("POST", CHAT, body) as running:
            await running.chunk()
            async with host.client.open("POST", CHAT, body):
                await wait_all_tasks_blocked()
                assert (await host.client.post(CHAT, body)).status == 503
                page = await scrape(host)
    assert page.value("neuron_requests_in_flight", model=A) == page.value("neuron_requests_in_flight_limit", model=A)
    assert page.value("neuron_requests_waiting", model=A) == 1
    assert page.value("neuron_requests_rejected_total", model=A, reason="queue_full") == 1
    assert page.value("neuron_requests_rejected_total", model=A, reason="kv_timeout") == 0


async def test_every_refusal_is_counted_by_status_and_code() -> None:
    labels = {"status": "404", "code": "model_not_found"}

    async def refused() -> float:
        return (await scrape(host)).of("neuron_refusals_total").get((labels["code"], labels["status"]), 0)

    async with scripted_host() as host:
        before = await refused()
        await host.client.post(CHAT, chat_body("org/unknown"))
        assert await refused() == before + 1


async def test_every_request_is_counted_by_method_path_and_status() -> None:
    async with scripted_host(resident=[A]) as host:
        for path in ("/models", "/models/org%2Fa/endpoint", "/models/org%2Fb/endpoint", "/nothing"):
            await host.client.get(path)
        page = await scrape(host)
    assert page.of("neuron_http_requests_total") == {
        ("GET", "/models", "200"): 1,
        ("GET", "/models/{model_id}/endpoint", "200"): 1,
        ("GET", "/models/{model_id}/endpoint", "404"): 1,
        ("GET", "other", "404"): 1,
    }
    assert page.value("neuron_http_get_seconds_count", path="/models/{model_id}/endpoint") == 2


async def test_loads_are_counted_by_outcome_and_models_by_state() -> None:
    specs = [spec(A), spec(B)]
    scripts = {B: ScriptedModel(load_error=LoadFailed("cursed"))}
    async with scripted_host(scripts, default_models=specs) as host:
        await load_default_models(host.registry, specs, host.tracker)
        page = await scrape(host)
    assert page.of("neuron_loads_total") == {("loaded",): 1, ("failed",): 1, ("cancelled",): 0}
    assert page.value("neuron_load_stage_seconds_count", stage="loading") == 1
    assert page.of("neuron_default_models") == {("pending",): 0, ("completed",): 1, ("failed",): 1}
    assert page.value("neuron_models", state="loaded") == 1


async def test_a_host_with_gpus_shows_their_memory_in_bytes_and_their_use_as_a_ratio() -> None:
    gpu = Device(index=0, name='GPU "x"\n', vram_total_mb=1024, compute_capability="8.9")
    reading = DeviceHealth(index=0, vram_used_mb=1000, vram_free_mb=24, utilization_pct=50, temp_c=60)
    found = Discovery(hostname="h", os="Linux", kernel="6", devices=(gpu,), harnesses=(), max_prompt_tokens=1)
    async with scripted_host(discovery=found) as host:
        host.real.monitor._readings = (reading,)
        page = await scrape(host)
    assert page.value("neuron_device_info", device="0", name='GPU "x"\n', compute_capability="8.9") == 1
    assert page.value("neuron_device_memory_used_bytes", device="0") == 1000 << 20
    assert page.value("neuron_device_memory_free_bytes", device="0") == 24 << 20
    assert page.value("neuron_device_utilization_ratio", device="0") == 0.5
    assert page.value("neuron_device_temperature_celsius", device="0") == 60


async def test_the_memory_and_the_cpus_of_the_host_are_shown_as_far_as_they_are_known() -> None:
    async with scripted_host() as host:
        unknown = await scrape(host)
        host.real.host_monitor._reading = (HostMemory(total_mb=100, available_mb=40), HostCpus(online=4, usable=2))
        known = await scrape(host)
    assert known.value("neuron_host_memory_bytes") == 100 << 20
    assert known.value("neuron_host_memory_available_bytes") == 40 << 20
    assert (known.value("neuron_host_cpus"), known.value("neuron_host_cpus_usable")) == (4, 2)
    assert known.of("neuron_host_memory_limit_bytes") == unknown.of("neuron_host_cpus") == {}


async def test_what_an_engine_has_counted_is_shown_where_it_is_known() -> None:
    async with scripted_host(resident=[A]) as host:
        snapshot = take_snapshot(host.real)
        host.real.tallies.loop_lag_s.add(0.2)
        gaps = host.real.tallies.show().loop_lag_s
        told = EngineMeasures(token_gaps=gaps, kv_cells=100, kv_cells_held=40, kv_cells_live=30)
    page = Samples(families(replaced(snapshot, measures={A: told})))
    assert [page.value(f"neuron_kv_cells{part}", model=A) for part in ("", "_held", "_live")] == [100, 40, 30]
    assert page.value("neuron_inter_token_seconds_count", model=A) == 1
    assert page.value("neuron_inter_token_seconds_bucket", model=A, le="0.25") == 1
    assert page.value("neuron_inter_token_seconds_bucket", model=A, le="0.1") == 0
    assert Samples(families(snapshot)).of("neuron_kv_cells") == {}


def replaced(snapshot: Snapshot, *, measures: Mapping[str, EngineMeasures]) -> Snapshot:
    return Snapshot(**{name: getattr(snapshot, name) for name in snapshot.__struct_fields__} | {"measures": measures})


async def test_a_page_is_given_in_openmetrics_to_those_who_ask_for_that() -> None:
    async with scripted_host(resident=[A]) as host:
        reply: Reply = await host.client.request("GET", "/metrics", headers=OPENMETRICS)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    read: Callable[[str], Iterable[Metric]] = read_openmetrics
    assert Samples(read(reply.body.decode())).value("neuron_models", state="loaded") == 1


async def test_a_host_that_drains_still_has_a_page() -> None:
    async with scripted_host(resident=[A]) as host:
        host.real.start_draining()
        page = await scrape(host)
    assert page.value("neuron_ready") == 0
    assert page.value("neuron_models", state="recovering") == 1


async def test_the_host_answers_others_while_the_text_of_a_page_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    is_asked, may_go_on = threading.Event(), threading.Event()

    def slow(_snapshot: Snapshot, *, accept: str) -> Page:
        is_asked.set()
        assert may_go_on.wait(PATIENCE_S)
        return Page(b"", accept)

    monkeypatch.setattr(pages, "make_page", slow)
    async with scripted_host() as host, host.client.open("GET", "/metrics") as scrape:
        await anyio.to_thread.run_sync(is_asked.wait)
        try:
            assert (await host.client.get("/health")).status == 200
            assert not scrape.status
        finally:
            may_go_on.set()
        assert await scrape.head() == 200


async def test_only_get_is_answered() -> None:
    async with scripted_host() as host:
        assert (await host.client.post("/metrics", {})).status == 405
        assert (await host.client.request("HEAD", "/metrics")).status == 200


async def test_what_clients_write_adds_no_series() -> None:
    async with scripted_host(resident=[A]) as host:
        first = {"model": "x", "user": "y", "metadata": {"k": "v"}}
        await host.client.post(CHAT, first)
        await host.client.post(CHAT, chat_body("org/0"))
        await host.client.get("/nothing/0")
        await scrape(host)
        load = {"model_id": "org/0", "harness": "unknown"}
        await host.client.post("/models/load", load)
        before = names_and_labels(await scrape(host))
        for number in range(1, 40):
            await host.client.post("/models/load", load | {"model_id": f"org/{number}"})
            await host.client.post(CHAT, first | {"model": f"x{number}", "user": f"y{number}"})
            await host.client.post(
                CHAT, chat_body(f"org/{number}"), headers=JSON | {"x-helexa-account-id": f"a{number}"}
            )
            await host.client.get(f"/nothing/{number}")
        assert names_and_labels(await scrape(host)) == before


async def test_a_model_that_was_unloaded_leaves_the_counts_of_its_replies_alone() -> None:
    async with scripted_host() as host:
        await scrape(host)
        empty = names_and_labels(await scrape(host))
        for number in range(3):
            await host.registry.load(spec(f"org/{number}"))
            await host.registry.unload(f"org/{number}")
        assert names_and_labels(await scrape(host)) == empty
        await host.registry.load(spec(A))
        await host.client.post(CHAT, chat_body(A))
        await host.registry.unload(A)
        page = await scrape(host)
    assert page.value("neuron_requests_total", model=A, outcome="stop") == 1
    assert page.of("neuron_requests_in_flight") == {}


def names_and_labels(page: Samples) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    samples = [sample for metric in page.metrics.values() for sample in metric.samples]
    return {(sample.name, frozenset(sample.labels.items())) for sample in samples}


async def test_every_name_is_that_of_the_project_and_every_metric_says_what_it_means() -> None:
    async with scripted_host(resident=[A]) as host:
        for metric in families(take_snapshot(host.real)):
            assert re.fullmatch(r"neuron_[a-z_]+", metric.name)
            assert not re.search(r"_(ms|mb|kb|pct|percent|total|count|sum|bucket|info)$", metric.name)
            assert metric.documentation.endswith(".")


@pytest.mark.parametrize("version", ["abc", "9" * 5000, "é"])
async def test_a_version_that_is_none_gets_the_usual_format(version: str) -> None:
    async with scripted_host(resident=[A]) as host:
        accept = {"accept": f"application/openmetrics-text; version={version}"}
        reply = await host.client.request("GET", "/metrics", headers=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


@pytest.mark.system
async def test_promtool_finds_nothing_wrong_with_a_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it is in Debian's package `prometheus`")
    async with scripted_host(resident=[A]) as host:
        await host.client.post(CHAT, chat_body(A, stream=True))
        text = make_page(take_snapshot(host.real), accept="").text
    checked = await anyio.run_process([promtool, "check", "metrics"], input=text, check=False)
    assert (checked.returncode, checked.stderr.decode(), checked.stdout.decode()) == (0, "", "")
