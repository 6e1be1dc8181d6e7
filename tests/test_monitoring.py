"""The files for Prometheus and Grafana use metrics that there are, and promtool and Prometheus accept them."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_service.http.listening import bind
from neuron_service.metrics.families import families
from neuron_service.metrics.snapshot import take_snapshot
from tests.documents import blocks
from tests.fakes.listening_host import ListeningHost, listening_host
from tests.fakes.scripted_host import scripted_host
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/monitoring"
HOW_TO = ROOT / "docs/how-to/metrics-and-alerts.md"
COMMANDS = blocks("docs/how-to/metrics-and-alerts.md", "sh")
(WITH_KEY,) = blocks("docs/how-to/metrics-and-alerts.md", "yaml")
OTHERS = {"process_resident_memory_bytes", "up", "ALERTS"}
OPERATORS = {"and", "or", "unless", "group_left", "group_right"}


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def dashboard_queries() -> list[str]:
    panels = dashboard()["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def names_in(query: str) -> set[str]:
    """The names of the series that a query reads: everything that is followed by a selector or stands alone."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - OPERATORS


async def series() -> set[str]:
    """The names of all series of a host."""
    async with scripted_host() as host:
        found = [*families(take_snapshot(host.real))]
    ending = {
        "counter": ("_total",),
        "info": ("_info",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    return {metric.name + end for metric in found for end in ending.get(metric.type, ("",))}


def test_the_names_in_a_query_are_found() -> None:
    query = 'sum by (le) (rate(a_total{b="c"}[5m])) / on (d) group_left label_replace(e, "f", "$1", "g", "(.*)") > 0.5'
    assert names_in(query) == {"a_total", "e"}


@pytest.mark.anyio
async def test_every_query_reads_series_that_there_are() -> None:
    queries = [rule["expr"] for name in ("alert-rules.yml", "vllm-names.yml") for rule in rules(name)]
    there_are = await series() | OTHERS
    assert {name for query in (*queries, *dashboard_queries()) for name in names_in(query)} - there_are == set()


@pytest.mark.anyio
async def test_every_histogram_has_a_name_of_vllm_or_is_about_the_host() -> None:
    recorded = {name for rule in rules("vllm-names.yml") for name in names_in(rule["expr"])}
    histograms = {name for name in await series() if name.endswith("_bucket")}
    about_the_host = {f"neuron_{name}_seconds_bucket" for name in ("event_loop_lag", "http_get", "load_stage")}
    assert histograms - recorded == about_the_host


def test_every_alert_is_tested_firing_and_silent_and_has_a_row_and_says_what_to_do() -> None:
    alerts = {rule["alert"]: rule for rule in rules("alert-rules.yml")}
    well, wrong, _ = yaml.safe_load((FOLDER / "tests.yml").read_text())["tests"]
    silent = {test["alertname"] for test in well["alert_rule_test"] if "exp_alerts" not in test}
    (all_firing,) = wrong["promql_expr_test"]
    firing = set(re.findall(r'alertname="(\w+)"', str(all_firing["exp_samples"])))
    assert silent == firing == set(alerts) == set(re.findall(r"`(Neuron\w+)`", HOW_TO.read_text()))
    for rule in alerts.values():
        assert rule["annotations"].keys() == {"summary", "action"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_panel_of_the_dashboard_has_a_place_and_a_title_of_its_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) < 24


# ------------------------------------------------------------------------------------------------- real programs


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; Debian's package `prometheus` has promtool and prometheus")
    return path


@pytest.fixture(scope="module")
def host(process: None) -> Iterator[ListeningHost]:
    with listening_host(resident=["org/a"]) as found:
        yield found


def commands() -> list[str]:
    """The commands of the page, one a line."""
    return [line for block in COMMANDS for line in block.splitlines()]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_succeeds(command: str, host: ListeningHost) -> None:
    if "promtool" in command:
        tool("promtool")
    command = command.replace(":13131", f":{host.port}")
    done = subprocess.run([tool("bash"), "-o", "pipefail", "-ec", command], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()


def test_prometheus_takes_the_key_as_the_page_says(process: None, tmp_path: Path) -> None:
    with_key = yaml.safe_load(WITH_KEY)
    key = tmp_path / "neuron.key"
    key.write_text("a key")
    with_key["authorization"]["credentials_file"] = str(key)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["scrape_configs"][0] |= with_key
    del config["rule_files"]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run([tool("promtool"), "check", "config", str(file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_promtool_can_read_every_query_of_the_dashboard(process: None, tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in dashboard_queries()]
    listed = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": listed}]}).replace("query:", "query_"))
    done = subprocess.run([tool("promtool"), "check", "rules", str(file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@contextmanager
def prometheus(port: int, folder: Path) -> Iterator[str]:
    """Prometheus with our files, which scrapes the host at `port` each second. Its address."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with bind("127.0.0.1", 0) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    program = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder}"]
    program.append(f"--web.listen-address={address}")
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


def first_answer(address: str, query: str) -> list[dict[str, Any]]:
    """The result of a query as soon as there is one."""
    url = f"{address}/api/v1/query?query={query}"
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - an address of this test
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except OSError:
            found = []  # it is starting
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"Prometheus knows nothing of {query}")


def test_prometheus_scrapes_a_host_and_records_its_metrics_under_the_names_of_vllm(
    host: ListeningHost, tmp_path: Path
) -> None:
    with prometheus(host.port, tmp_path) as address:
        (seats,) = first_answer(address, "vllm:num_requests_running")
        (up,) = first_answer(address, "up")
    assert (seats["metric"]["model_name"], seats["value"][1], up["value"][1]) == ("org/a", "0", "1")
