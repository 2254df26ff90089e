"""The jobs of a comparison on a Ray cluster whose nodes share a disk."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from distilect.config import dump_config, parse_part
from distilect.errors import ConfigError, RunError
from distilect.experiments.config import CompareConfig
from distilect.experiments.jobs import Job, Outcome, Worker, record_failure
from distilect.progress import console

ATTEMPTS = 3  # at a job whose machine is lost: it goes on from its last checkpoint
_PATIENCE = 60.0  # seconds without any worker before a message says what the cluster lacks


class RemoteWorker:
    """A worker in a process of the cluster; jobs and outcomes travel as JSON."""

    def __init__(self, settings: str, folder: str, token: str) -> None:
        self.settings, self.folder, self.token = settings, folder, token
        self.worker: Worker | None = None

    def ready(self) -> str:
        """Begin to work; "" or why this node cannot."""
        node = os.uname().nodename
        try:
            os.chdir(self.folder)  # relative paths mean the same as where the command was given
        except OSError as error:
            return f"node {node} does not see {self.folder} ({error.strerror}): start the command in a folder that all nodes share"
        config = parse_part(CompareConfig, yaml.safe_load(self.settings))
        if not (config.folder / self.token).exists():
            return f"node {node} does not see {config.folder.absolute()}: set output= to a folder that all nodes share"
        self.worker = Worker(config)
        return ""

    def do(self, job: str) -> str:
        assert self.worker is not None
        return self.worker.do(Job(**json.loads(job))).to_json()


class RayEngine:
    """Actors of a Ray cluster, at most `workers` at once, each with `threads` processors and `ray.gpus` GPUs.

    Data, teachers, signals and results are shared by path: `output`, the data and the folder in which the command is given have to
    be on a disk that all nodes see. When a node is lost, its job is given to another one, which goes on from the last checkpoint, up
    to three times.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, config: CompareConfig) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("engine: ray needs Ray, which is not installed: pip install 'distilect[ray]'")
        self.config, self.ray = config, _connected(config.ray.address)
        self.idle: list[Any] = []
        self.pending: dict[Any, tuple[Any, Job | None]] = {}  # call → actor, and its job; None: it is starting
        self.lost = 0  # actors that died before they were ready, in a row
        self.token = f".seen-{os.getpid()}"
        (config.folder / self.token).touch()

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        waiting, attempts, left = deque(jobs), Counter[str](), len(jobs)
        while left:
            self._hand_out(waiting)
            found = self._next()
            if found is None:
                continue
            call, actor, job = found
            outcome = None
            try:
                answer = self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                outcome = self._gone(error, job, attempts, waiting)
            else:
                self.idle.append(actor)
                if job is not None:
                    outcome = Outcome(**json.loads(answer))
                elif answer:
                    raise RunError(f"engine: ray: {answer}")
                else:
                    self.lost = 0  # an actor is ready
            if outcome is not None:
                left -= 1
                yield outcome

    def _hand_out(self, waiting: deque[Job]) -> None:
        """Jobs to idle actors; more actors where there are jobs for them."""
        while waiting and self.idle:
            actor, job = self.idle.pop(), waiting.popleft()
            self.pending[actor.do.remote(job.to_json())] = (actor, job)
        starting = sum(job is None for _, job in self.pending.values())
        while len(self.pending) < self.config.workers and starting < len(waiting):
            wanted = {"num_cpus": self.config.threads or 1, "num_gpus": self.config.ray.gpus}
            kind = self.ray.remote(RemoteWorker).options(**wanted, scheduling_strategy="SPREAD")
            actor = kind.remote(dump_config(self.config), os.getcwd(), self.token)
            self.pending[actor.ready.remote()] = (actor, None)
            starting += 1

    def _next(self) -> tuple[Any, Any, Job | None] | None:
        """The next call that has ended, its actor and job; None after a minute of waiting."""
        ended, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=_PATIENCE)
        if ended:
            return ended[0], *self.pending.pop(ended[0])
        if all(job is None for _, job in self.pending.values()):
            free = self.ray.available_resources()
            console.print(
                f"waiting for Ray: a worker needs {self.config.threads or 1} CPUs and {self.config.ray.gpus:g} GPUs, free are "
                f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs",
                markup=False,
            )
        return None

    def _gone(self, error: Exception, job: Job | None, attempts: Counter[str], waiting: deque[Job]) -> Outcome | None:
        """An actor is lost: another one takes its job, or the job has failed.

        Raises:
            RunError: no actor ever gets ready.
        """
        reason = " ".join(str(error).split())[-300:]
        if job is None:
            self.lost += 1
            if self.lost >= ATTEMPTS:
                raise RunError(f"engine: ray: workers end before they are ready: {reason}")
            return None
        attempts[job.key] += 1
        if attempts[job.key] < ATTEMPTS:
            console.print(f"the worker of {job.key} is lost; another one goes on", markup=False)
            waiting.appendleft(job)
            return None
        text = f"its worker was lost {ATTEMPTS} times: {reason}"
        record_failure(self.config, job, text)
        return Outcome(job.kind, job.key, "failed", text)

    def close(self) -> None:
        for actor in [*self.idle, *(actor for actor, _ in self.pending.values())]:
            self.ray.kill(actor)
        self.idle, self.pending = [], {}
        (self.config.folder / self.token).unlink(missing_ok=True)
        self.ray.shutdown()


def _connected(address: str | None) -> Any:
    """The module `ray`, connected to a cluster that is already there.

    Raises:
        ConfigError: there is none.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"engine: ray finds no cluster at {address!r} ({reason}): ray start --head on one machine, ray start "
                "--address=HOST:6379 on the others, then set ray.address=HOST:6379"
            ) from None
    return ray
