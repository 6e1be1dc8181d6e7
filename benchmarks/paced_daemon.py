"""The daemon of `daemon_cost`: the whole service, with engines that are `paced_engine`.

Only the program behind the engine's socket is another one. Imports nothing else of the benchmarks, so that it also runs
with the packages of another checkout. `--profile FILE` writes a profile of the event loop when the daemon ends.
"""

import argparse
import cProfile
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from neuron_lib.admission import AdmissionRules
from neuron_lib.backend import HarnessSetup
from neuron_lib.config import LlamaCppConfig, load_config
from neuron_lib.engine.protocol import Load
from neuron_lib.harness import ProgressReporter
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_process import open_engine
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.supervision.supervisor import EngineStarter, supervise
from neuron_lib.types import ContextParams, ModelSpec
from neuron_service.http.listening import bind
from neuron_service.server import serve
from neuron_service.systemd import Notifier
from neuron_service.version import Version

SEATS = 16
ENGINE = (sys.executable, "-P", str(Path(__file__).with_name("paced_engine.py")))
CONFIG = """
default_models = [{ model_id = "bench/model", harness = "llamacpp" }]
"""


class PacedHarness:
    """Opens models as the llama.cpp harness does, except that nothing is fetched and the engine is a fake."""

    name = "llamacpp"

    def __init__(self, config: LlamaCppConfig, setup: HarnessSetup) -> None:
        del config
        # Another checkout may be older than this part of the setup.
        self._options: dict[str, Any] = {"read": setup.read} if hasattr(setup, "read") else {}

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """Nothing is known of a model that is not loaded."""
        del model_id
        return None

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LlamaCppModel]:
        """A model behind a paced engine."""
        del spec, report
        start: EngineStarter[EngineClient] = partial(
            open_engine,
            Load(path="-", seats=SEATS, context=ContextParams(threads=1), target_step_s=1.0),
            model_id=model_id,
            environment=dict(os.environ),
            on_progress=lambda _fraction: None,
            command=ENGINE,
            **self._options,
        )
        async with supervise(start, model_id=model_id) as supervisor:
            yield LlamaCppModel(
                supervisor,
                harness_name=self.name,
                devices=(),
                rules=AdmissionRules(max_in_flight=SEATS, max_queue_depth=SEATS, max_wait_s=60),
                max_prompt_tokens=1 << 16,
                sampling=LlamaCppConfig().sampling,
            )


async def live(config: Path, port: int) -> None:
    """Serve until a signal."""
    await serve(
        load_config(config, {}, sections=(LLAMACPP,)),
        sock=bind("127.0.0.1", port),
        version=lambda: Version(package_version="0", git_sha=""),
        environ={},
        notifier=Notifier(None),
        watchdog_s=None,
        backends=(replace(LLAMACPP, make=PacedHarness),),
    )


def main() -> None:
    """Serve on `--port`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="where to write the configuration")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--profile", type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    options.config.write_text(CONFIG, encoding="utf-8")
    run = partial(anyio.run, live, options.config, options.port, backend_options={"use_uvloop": True})
    if options.profile is None:
        run()
    else:
        profile = cProfile.Profile()
        profile.runcall(run)
        profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
