"""Comparisons on Ray: what becomes of jobs when workers are lost, and a real cluster of two nodes on one machine."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilect.errors import ConfigError, RunError
from distilect.experiments import compare, ray_engine
from distilect.experiments.engines import engine_of
from distilect.experiments.jobs import Job
from distilect.experiments.ray_engine import RayEngine
from distilect.experiments.results import Results
from tests.experiments.helpers import Toy
from tests.launch import environment, free_port

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("ray"))


# ---- the engine's own logic, with a cluster that is none --------------------------------------------------------------


class Lost(Exception):
    """In the place of `ray.exceptions.RayError`."""


class FakeRay:
    """Calls are made when they are waited for; some of them end with the loss of the actor."""

    class exceptions:
        RayError = Lost

    def __init__(self, dies: dict[str, int], ready: Any = "") -> None:
        self.dies, self.ready, self.made = dies, ready, 0

    def remote(self, kind: Any) -> Any:
        return self

    def options(self, **_: Any) -> Any:
        outer = self

        class Made:
            @staticmethod
            def remote(*_: Any) -> Any:
                outer.made += 1
                return outer.actor()

        return Made

    def actor(self) -> Any:
        outer = self

        class Call:
            def __init__(self, work: Any) -> None:
                self.remote = lambda *words: (outer.number(), work, words)

        class Actor:
            ready = Call(lambda: outer.ready)
            do = Call(outer.do)

        return Actor()

    def number(self) -> int:
        self.calls = getattr(self, "calls", 0) + 1
        return self.calls

    def do(self, text: str) -> str:
        job = json.loads(text)
        if self.dies.get(job["key"], 0) > 0:
            self.dies[job["key"]] -= 1
            raise Lost("the node is gone")
        return json.dumps({"kind": job["kind"], "key": job["key"], "status": "done"})

    def wait(self, calls: Any, **_: Any) -> Any:
        return calls[:1], calls[1:]

    def get(self, call: Any) -> Any:
        answer = call[1](*call[2])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None: ...

    def shutdown(self) -> None: ...


def engine(toy: Toy, monkeypatch: pytest.MonkeyPatch, ray: FakeRay, workers: int = 2) -> RayEngine:
    config = toy.config(name="fake", engine="ray", workers=workers)
    config.folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(ray_engine, "_connected", lambda address: ray)
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: object())
    return RayEngine(config)


JOBS = [Job("trial", key) for key in "abcde"]


def test_a_lost_worker_costs_no_job_and_a_job_that_always_loses_its_worker_fails_alone(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay({"b": 1, "d": 99})
    found = engine(toy, monkeypatch, ray)
    outcomes = {outcome.key: outcome for outcome in found.run(JOBS)}
    assert {key for key, outcome in outcomes.items() if outcome.status == "done"} == set("abce")
    assert outcomes["d"].error == "its worker was lost 3 times: the node is gone"
    assert (found.config.folder / "failed" / "trial.d.json").exists()
    assert 2 <= ray.made <= 2 + 4  # two at once, and one for each that was lost
    token = found.config.folder / found.token
    assert token.exists()
    found.close()
    assert not token.exists()


def test_workers_are_kept_for_the_next_stage(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay({})
    found = engine(toy, monkeypatch, ray, workers=3)
    assert len(list(found.run(JOBS))) == len(list(found.run(JOBS))) == 5
    assert ray.made <= 3


def test_a_node_without_the_shared_folder_is_reported(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine(toy, monkeypatch, FakeRay({}, "node n1 does not see /data"))
    with pytest.raises(RunError, match="engine: ray: node n1 does not see /data"):
        list(found.run(JOBS))


def test_workers_that_never_get_ready_are_reported(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine(toy, monkeypatch, FakeRay({}, Lost("no module named distilect")))
    with pytest.raises(RunError, match="end before they are ready: no module named distilect"):
        list(found.run(JOBS))


def test_a_worker_looks_for_the_shared_folder(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from distilect.config import dump_config

    config = toy.config(name="seen")
    config.folder.mkdir(parents=True)
    monkeypatch.chdir(toy.folder)
    worker = ray_engine.RemoteWorker(dump_config(config), str(toy.folder), "token")
    assert "set output= to a folder that all nodes share" in worker.ready()
    (config.folder / "token").touch()
    assert worker.ready() == ""
    gone = ray_engine.RemoteWorker(dump_config(config), "/no/such/folder", "token")
    assert "does not see /no/such/folder" in gone.ready()


def test_without_ray_the_error_names_the_remedy(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'distilect\[ray\]'"):
        engine_of(toy.config(engine="ray"))


# ---- a cluster of two nodes -------------------------------------------------------------------------------------------


class Cluster:
    """Head and worker with one processor each, as `ray start` makes them; both are ours to end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r"))  # short: sockets lie below it
        self.address = f"127.0.0.1:{free_port()}"
        head = ["--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}"]
        self.nodes = [self._start([*head, "--include-dashboard=false"])]
        self._until(lambda: b"Ray runtime started" in (self.folder / "0.log").read_bytes())
        self.join()

    def join(self) -> None:
        self.nodes.append(self._start([f"--address={self.address}"]))
        number = len(self.nodes) - 1
        self._until(lambda: b"Ray runtime started" in (self.folder / f"{number}.log").read_bytes())

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        plain = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=80000000", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, *plain, "--disable-usage-stats"]
        log = (self.folder / f"{len(getattr(self, 'nodes', []))}.log").open("wb")
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)

    def _until(self, there: Any) -> None:
        deadline = time.monotonic() + 300
        while not there():
            assert time.monotonic() < deadline, (self.folder / "0.log").read_text()
            time.sleep(0.2)

    def lose(self, number: int) -> None:
        """As a machine that is switched off."""
        os.killpg(self.nodes[number].pid, signal.SIGKILL)
        self.nodes[number].wait()

    def close(self) -> None:
        for number, node in enumerate(self.nodes):
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
                try:
                    node.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    self.lose(number)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'distilect[ray]'")
    found = Cluster()
    yield found
    found.close()


def scores_of(config: Any) -> dict[str, Any]:
    return {r["trial"]: r["student"]["scores"] for r in Results(config.folder / "results.jsonl").read()}


@pytest.mark.slow
def test_two_nodes_give_the_results_of_one_process(toy: Toy, cluster: Cluster) -> None:
    raw = {"teachers": [toy.made("x")], "students": ["x[layers=1]"], "seeds": [0, 1]}
    alone = toy.config(name="alone", **raw)
    both = toy.config(name="both", engine="ray", workers=2, ray={"address": cluster.address}, **raw)
    assert compare(alone).done == compare(both).done == 4
    assert scores_of(alone) == scores_of(both)


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_trial(toy: Toy, cluster: Cluster) -> None:
    config = toy.config(
        name="lost",
        engine="ray",
        workers=2,
        ray={"address": cluster.address},
        seeds=[0, 1, 2],
        train={"epochs": 20, "batch_size": 4, "max_length": 32, "precision": "fp32", "logging_steps": 5},
    )
    trials = config.folder / "trials"

    def lose_in_the_middle() -> None:
        while not list(trials.glob("*/checkpoints/checkpoint-*")):
            time.sleep(0.05)
        cluster.lose(1)

    fault = threading.Thread(target=lose_in_the_middle, daemon=True)
    fault.start()
    found = compare(config)
    fault.join()
    assert found.done == 6 and not found.failed
    done = [result["trial"] for result in Results(config.folder / "results.jsonl").read()]
    assert len(done) == len(set(done)) == 6
