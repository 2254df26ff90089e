"""What runs the jobs of a comparison. An engine is one class and one line of `ENGINES`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from distilect.config import dump_config
from distilect.errors import ConfigError, did_you_mean
from distilect.experiments.config import CompareConfig
from distilect.experiments.jobs import Job, Outcome, Worker, record_failure
from distilect.experiments.ray_engine import RayEngine

_QUIET = {"DISTILECT_QUIET": "1", "TOKENIZERS_PARALLELISM": "false"}


class Engine(Protocol):
    """Runs jobs, in any order, several at a time, anywhere that sees the comparison's folder.

    Whatever runs a job calls `Worker(config).do(job)`; locks and lines are the worker's, so an engine only has to say how each
    job ended, also when what ran it died.
    """

    def __init__(self, config: CompareConfig) -> None: ...

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yields the outcome of each job as it ends."""
        ...

    def close(self) -> None:
        """Stop what still runs; called once, also after an error or Ctrl-C."""
        ...


class LocalEngine:
    """Processes on this machine; with one worker, this process itself.

    Several workers have one thread each unless `threads` says otherwise: with more they would wait for one another. Each writes
    what it prints to `workers/N.log` in the comparison's folder.
    """

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.inside: Worker | None = None
        self.processes: list[_Process] = []
        if config.workers == 1 and config.threads is not None:
            import torch

            torch.set_num_threads(config.threads)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        if self.config.workers == 1:
            self.inside = self.inside or Worker(self.config)
            for job in jobs:
                yield self.inside.do(job)
            return
        while len(self.processes) < min(self.config.workers, len(jobs)):
            self.processes.append(_Process(self.config, len(self.processes)))
        waiting: queue.Queue[Job] = queue.Queue()
        ended: queue.Queue[Outcome] = queue.Queue()
        for job in jobs:
            waiting.put(job)
        for process in self.processes:
            threading.Thread(target=process.work_off, args=(waiting, ended), daemon=True).start()
        for _ in jobs:
            yield ended.get()

    def close(self) -> None:
        for process in self.processes:
            process.stop()


class _Process:
    """One worker process; started when it is needed, and again where it has died."""

    def __init__(self, config: CompareConfig, number: int) -> None:
        self.config = config
        self.folder = config.folder / "workers"
        self.log = self.folder / f"{number}.log"
        self.running: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def work_off(self, waiting: queue.Queue[Job], ended: queue.Queue[Outcome]) -> None:
        """Take jobs until there are none."""
        while not self.stopped:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put(self._do(job))
            except Exception as error:  # a job must never be left without an outcome: `run` waits for it
                ended.put(Outcome(job.kind, job.key, "failed", f"worker could not be started: {error}"))

    def _do(self, job: Job) -> Outcome:
        process = self._process()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(job.to_json().encode() + b"\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer:
            return Outcome(**json.loads(answer))
        self.running = None
        error = f"its process {_how(process.wait())}; see {self.log}"
        if not self.stopped:
            record_failure(self.config, job, error, "")
        return Outcome(job.kind, job.key, "failed", error)

    def _process(self) -> subprocess.Popen[bytes]:
        if self.running is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = self.folder / f"config-{os.getpid()}.yaml"
            if not settings.exists():
                settings.write_text(dump_config(self.config), encoding="utf-8")
            threads = str(self.config.threads or 1)
            environment = {**os.environ, **_QUIET, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            with self.log.open("ab") as log:
                self.running = subprocess.Popen(
                    worker_command(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
                )
        return self.running

    def stop(self) -> None:
        self.stopped = True
        process = self.running  # the thread that works it off forgets it once it has ended
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if process.poll() is None:
                process.kill()
                process.wait()
        (self.folder / f"config-{os.getpid()}.yaml").unlink(missing_ok=True)


def worker_command(settings: Path) -> list[str]:
    """How a worker process is started."""
    return [sys.executable, "-m", "distilect.experiments.worker", str(settings)]


def _how(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine}


def engine_of(config: CompareConfig) -> Engine:
    """The engine that the config names.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.engine not in ENGINES:
        raise ConfigError(
            f"no engine is called {config.engine!r}; known: {', '.join(ENGINES)}.{did_you_mean(config.engine, ENGINES)}"
        )
    return ENGINES[config.engine](config)


def serve(settings: Path, source: IO[bytes], target: IO[bytes]) -> None:
    """A worker process: jobs as JSON lines in, outcomes as JSON lines out, until the input ends."""
    from distilect.experiments.config import load_compare

    worker = Worker(load_compare(settings))
    for line in source:
        outcome = worker.do(Job(**json.loads(line)))
        target.write(outcome.to_json().encode() + b"\n")
        target.flush()
