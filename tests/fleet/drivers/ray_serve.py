"""Run in Ray's own environment: a cluster of two nodes on this machine, and the application of the example on it.

Prints one line of JSON for each thing that was seen. `tests/fleet/test_ray.py` says what it must be.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import batch_job
import httpx
import psutil
import ray
import serve_app
from ray import serve
from ray.cluster_utils import Cluster

FOLDER = Path(sys.argv[1])
LIMIT_S = 600
CLIENTS = 8
ENGINE = "neuron_lib.engine"
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


def tell(**seen):
    print(json.dumps(seen), flush=True)


def eventually(look, limit_s=LIMIT_S):
    deadline_s = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"never came to be: {look}")
        time.sleep(0.1)
    return found


def engines():
    """The engine processes of this run, by their pids. Their home is the folder of this run."""
    found = []
    for process in psutil.process_iter():
        try:
            if ENGINE in process.cmdline() and process.environ().get("HOME") == os.environ["HOME"]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


class Load:
    """Clients that stream chats, one after another each, until `stop`."""

    def __init__(self, url):
        self.url, self.calls, self.over = url, [], threading.Event()
        self.threads = [threading.Thread(target=self.ask_on, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def ask_on(self):
        with httpx.Client(base_url=self.url, timeout=LIMIT_S, trust_env=False) as client:
            while not self.over.is_set():
                began_s = time.monotonic()
                problem = ask(client)
                self.calls.append((began_s, time.monotonic(), problem))
                if problem:
                    self.over.wait(0.5)  # as a client would, and others get the processor

    def ended_well(self):
        return sum(not problem for _, _, problem in list(self.calls))

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def ask(client):
    """Stream one chat. Returns what is wrong with it, or nothing."""
    body = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "max_tokens": 32,
    }
    chunks = 0
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                return f"{answer.status_code} {answer.text[:200]}"
            lines = []
            for chunk in answer.iter_text():
                chunks += 1
                lines.append(chunk)
    except httpx.HTTPError as error:
        return repr(error)
    text = "".join(lines)
    if not text.endswith("data: [DONE]\n\n"):
        return f"the stream broke off after {chunks} chunks"
    return "" if chunks > 2 else "the stream came in one piece"


def replicas():
    status = serve.status().applications["default"].deployments["Neuron"]
    return status.replica_states.get("RUNNING", 0)


def start_proxy():
    """Ray gives a proxy a minute to start, which a busy machine may not have for it. The proxy goes on starting."""
    for tries_left in reversed(range(5)):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["SERVE_PORT"])})
        except TimeoutError:
            if not tries_left:
                raise
        else:
            return


def main():
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        tell(nodes=len([node for node in ray.nodes() if node["Alive"]]))
        start_proxy()
        serve.run(serve_app.app)
        url = f"http://127.0.0.1:{os.environ['SERVE_PORT']}"
        with httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as client:
            tell(first_chat=(problem := ask(client)), models=client.get("/v1/models").text)
            assert not problem, problem
        tell(replicas_at_rest=replicas(), engines=len(engines()))

        began_s = time.monotonic()
        load = Load(url)
        eventually(lambda: replicas() == 2)
        both = eventually(lambda: len(pids := engines()) == 2 and pids)
        tell(replicas_under_load=2, after_s=round(time.monotonic() - began_s, 1))
        before = load.ended_well()
        eventually(lambda: load.ended_well() >= before + 2 * CLIENTS)

        lost_s = time.monotonic()
        cluster.remove_node(second, allow_graceful=False)
        (left,) = eventually(lambda: len(pids := [pid for pid in both if psutil.pid_exists(pid)]) == 1 and pids)
        tell(engines_after_the_loss_of_a_node=[left] == engines())
        before = load.ended_well()
        eventually(lambda: load.ended_well() >= before + 4 * CLIENTS)
        load.stop()
        failed = [(began - lost_s, ended - lost_s, problem) for began, ended, problem in load.calls if problem]
        tell(
            calls=len(load.calls),
            in_flight_at_the_loss=sum(began < lost_s < ended for began, ended, _ in load.calls),
            failed=len(failed),
            failed_before_the_loss=sum(ended < 0 for _, ended, _ in failed),
            failed_that_began_later=sum(began > 0 for began, _, _ in failed),
            latest_failure_s=round(max((ended for _, ended, _ in failed), default=0), 1),
            problems=sorted({problem for _, _, problem in failed}),
        )
        third = cluster.add_node(**NODE)
        load = Load(url)
        eventually(lambda: replicas() == 2)
        load.stop()
        tell(failed_after_a_new_node=[problem for *_, problem in load.calls if problem], third=third is not None)

        questions = FOLDER / "questions.jsonl"
        questions.write_text("".join(json.dumps({"question": f"What is {n} and {n}?"}) + "\n" for n in range(12)))
        serve.shutdown()
        eventually(lambda: not engines())
        tell(engines_after_the_shutdown=engines())

        began_s = time.monotonic()
        answers = batch_job.answer_all(ray.data.read_json(str(questions), lines=True)).take_all()
        tell(
            rows=len(answers),
            answered=sum(bool(row["answer"]) for row in answers),
            questions=sorted(row["question"] for row in answers) == sorted(f"What is {n} and {n}?" for n in range(12)),
            batch_s=round(time.monotonic() - began_s, 1),
        )
        eventually(lambda: not engines())
        tell(engines_after_the_job=engines())
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
