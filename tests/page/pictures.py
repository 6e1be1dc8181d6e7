"""The pictures of the page in the documents: `make pictures` makes them anew, in docs/images.

The host follows a script, so the pictures do not depend on this machine: names, numbers and times are invented.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import anyio
from msgspec.structs import replace
from playwright.sync_api import Browser, Page, ViewportSize

from neuron_lib import Registry
from neuron_lib.errors import EngineDead
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import (
    Device,
    DeviceHealth,
    Discovery,
    Finished,
    FinishReason,
    HostCpus,
    HostMemory,
    LoadProgress,
    LoadStage,
    ReasoningDelta,
    ReplyEvent,
    Usage,
)
from neuron_service.page.snapshot import take_facts
from neuron_service.page.view import PageFacts
from neuron_service.routes import page as page_routes
from tests.fakes.driven_harness import DrivenHarness
from tests.fakes.listening_host import ListeningHost
from tests.fakes.scripted_host import spec
from tests.page.browsing import PATIENCE_MS, chromium, page_host

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
DESKTOP: Final = ViewportSize(width=1280, height=1060)
PHONE: Final = ViewportSize(width=390, height=844)

CHATS, CODES, LOADS = "Qwen/Qwen3-8B:Q4_K_M", "Qwen/Qwen2.5-Coder-7B", "google/gemma-3-12b-it:Q4_K_M"
GPUS = (Device(index=0, name="NVIDIA RTX 4000 Ada", vram_total_mb=20_475, compute_capability="8.9"),)
DISCOVERY = Discovery(
    hostname="gpu1",
    os="Linux",
    kernel="6.12",
    devices=GPUS,
    harnesses=("llamacpp",),
    max_prompt_tokens=16384,
)
THOUGHTS = (
    "The user wants the idea first and then an example. Keep it short: what a process is, why a crash stays inside."
)
ANSWER = """Each model runs in **its own process**, so a crash costs one model and nothing else.

1. The engine of the model ends, and with it the memory that it had.
2. The service notices at once and starts a new engine.
3. Replies of which nothing was sent are made again.

```python
async for event in registry.events():
    print(event)
```

The other models go on meanwhile."""
SECOND_ANSWER = """On this page, and in `/health`:

- its card says *recovering*, and *serving* again a moment later
- *Restarts* counts, and *Last crash* says how the engine ended"""
DEATH = "killed by SIGSEGV"
"""How the engine of a crash ended, in the words of a real one."""
END = Finished(
    reasons=(FinishReason.STOP,),
    usage=Usage(prompt_tokens=31, completion_tokens=143, prefill_ms=120, decode_ms=3250),
)


def invented(facts: PageFacts) -> PageFacts:
    """`facts` with the numbers that a script does not have."""
    busy = {
        CHATS: {"max_in_flight": 8, "max_queue_depth": 32, "tok_s_decode": 44.1, "tok_s_prefill": 1380.0},
        CODES: {"max_in_flight": 8, "max_queue_depth": 32, "in_flight": 3, "queue_depth": 1, "tok_s_decode": 38.6}
        | {"tok_s_prefill": 1240.0},
    }
    kv = {CHATS: (1152, 860), CODES: (896, 240)}
    loads = tuple(
        replace(
            load,
            **{"engine_rss_mb": 612} | busy.get(load.id, {}),
            kv_budget_mb=kv.get(load.id, (0, 0))[0],
            kv_available_mb=kv.get(load.id, (0, 0))[1],
        )
        for load in facts.health.models
    )
    health = replace(
        facts.health,
        uptime_secs=93_900,
        models=loads,
        devices=(DeviceHealth(index=0, vram_used_mb=13_870, vram_free_mb=6_605, utilization_pct=71, temp_c=63),),
        memory=HostMemory(total_mb=64_215, available_mb=51_044),
        cpus=HostCpus(online=16, usable=16, load_1m=2.4),
        loading=tuple(replace(load, elapsed_ms=52_000) for load in facts.health.loading),
    )
    vram = {CHATS: 5710, CODES: 5340}
    models = tuple(replace(model, vram_used_mb=vram.get(model.id, 4000)) for model in facts.models)
    times = {"prompt_tokens": 31, "completion_tokens": 143, "ttft_ms": 180, "decode_ms": 3250, "total_ms": 3430}
    events = tuple(replace(event, **times) if isinstance(event, ReplyEvent) else event for event in facts.events)
    return replace(facts, health=health, models=models, events=events, version="0.2.0")


@dataclass(frozen=True)
class Scene:
    """A host in some state, seen in a page."""

    host: ListeningHost
    page: Page
    scripts: Mapping[str, ScriptedModel]

    def ask(self, text: str) -> None:
        self.page.get_by_label("Model", exact=True).select_option(CHATS)
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")


def idle(scene: Scene) -> None:
    scene.page.get_by_role("heading", name=CODES).wait_for()
    scene.page.get_by_text("There were none so far.").wait_for()


def loading(scene: Scene) -> None:
    driven = DrivenHarness()
    registry = scene.host.scripted.registry
    scene.host.call(registry.register, driven)
    scene.host.call(_begin, registry, driven)
    progress = LoadProgress(
        stage=LoadStage.DOWNLOADING,
        bytes=4_530_000_000,
        total_bytes=7_300_000_000,
        bytes_per_s=87_000_000,
        eta_s=31,
        file="gemma-3-12b-it-Q4_K_M.gguf",
    )
    scene.host.call(driven.reports[LOADS], progress)
    scene.page.get_by_text("downloading 62 %").wait_for()


async def _begin(registry: Registry, driven: DrivenHarness) -> None:
    """Begin a load that does not end."""
    with anyio.move_on_after(0.2):
        await registry.load(spec(LOADS, harness=driven.name))


def chatting(scene: Scene) -> None:
    scene.ask("Why does a crash cost one model only?")
    scene.page.get_by_text("143 tokens").wait_for()
    scene.scripts[CHATS].reply = (SECOND_ANSWER, END)
    scene.ask("And how do I see it?")
    scene.page.get_by_text("143 tokens").nth(1).wait_for()


def crashed(scene: Scene) -> None:
    scene.scripts[CHATS].reply = (ANSWER[:130], EngineDead(CHATS, DEATH))
    scene.ask("Why does a crash cost one model only?")
    scene.page.get_by_role("button", name="Try again").wait_for()
    scene.host.call(scene.host.scripted.harness.crash, CHATS)
    scene.page.get_by_text("recovering", exact=True).wait_for()


PICTURES: Final = (
    (chatting, "light", DESKTOP),
    (chatting, "dark", PHONE),
    (loading, "dark", DESKTOP),
    (crashed, "light", DESKTOP),
)
"""What is in the documents: a scene, a colour scheme and a screen."""
ALL: Final = tuple(
    (scene, scheme, screen)
    for scene in (idle, loading, chatting, crashed)
    for scheme in ("light", "dark")
    for screen in (DESKTOP, PHONE)
)


@contextmanager
def scene_of(browser: Browser, viewport: ViewportSize, scheme: Any) -> Iterator[Scene]:
    """A host with two models, in a browser."""
    pieces = [ANSWER[at : at + 5] for at in range(0, len(ANSWER), 5)]
    scripts = {
        CHATS: ScriptedModel(reply=(ReasoningDelta(text=THOUGHTS), *pieces, END), n_ctx=32_768, death=DEATH),
        CODES: ScriptedModel(n_ctx=16_384),
    }
    with (
        patch.object(page_routes, "take_facts", lambda host, scopes: invented(take_facts(host, scopes=scopes))),
        page_host(scripts, resident=[CHATS, CODES]) as host,
    ):
        host.call(host.scripted.real.set_discovery, DISCOVERY)
        context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=1)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{host.port}/")
        page.wait_for_selector("html.scripted")
        try:
            yield Scene(host, page, scripts)
        finally:
            context.close()


def main(pictures: Iterable[tuple[Callable[[Scene], None], Any, ViewportSize]], folder: Path) -> None:
    """Make the pictures in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for scene, scheme, screen in pictures:
            with scene_of(browser, screen, scheme) as seen:
                scene(seen)
                is_phone = screen is PHONE
                name = f"page-{scene.__name__}-{scheme}{'-phone' if is_phone else ''}.png"
                if not is_phone:  # tall enough for all, so that nothing is cut
                    height = seen.page.evaluate("document.documentElement.scrollHeight")
                    seen.page.set_viewport_size({"width": screen["width"], "height": height})
                seen.page.screenshot(path=folder / name, full_page=is_phone)


if __name__ == "__main__":
    # With a folder: all scenes, in every scheme and on every screen, to be looked at.
    main(*((ALL, Path(sys.argv[1])) if sys.argv[1:] else (PICTURES, FOLDER)))
