"""What runs the jobs of a comparison. An engine is one class and one line of `ENGINES`."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from distilect.config import dump_config
from distilect.errors import ConfigError, did_you_mean
from distilect.experiments.config import CompareConfig
from distilect.experiments.jobs import Job, Outcome, Worker, record_failure
from distilect.experiments.ray_engine import RayEngine


class Engine(Protocol):
    """Runs jobs, in any order, several at a time, anywhere that sees the comparison's folder.

    Whatever runs a job calls `Worker(config).do(job)`. Locks and results are the worker's matter: an engine only reports how each
    job ended, also when the process that ran it died.
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
        self.own: Worker | None = None
        self.processes = [_Process(config, number) for number in range(config.workers)] if config.workers > 1 else []
        self.idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self.processes:
            self.idle.put(process)
        self.threads = ThreadPoolExecutor(config.workers)
        if config.workers == 1 and config.threads is not None:
            import torch

            torch.set_num_threads(config.threads)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        if self.config.workers == 1:
            self.own = self.own or Worker(self.config)
            yield from map(self.own.do, jobs)
            return
        for ended in as_completed([self.threads.submit(self._do, job) for job in jobs]):
            yield ended.result()

    def _do(self, job: Job) -> Outcome:
        """Hand a job to an idle process and wait for its answer."""
        process = self.idle.get()
        try:
            return process.do(job)
        except Exception as error:
            return Outcome(job.kind, job.key, "failed", f"worker could not be started: {error}")
        finally:
            self.idle.put(process)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.stop()


class _Process:
    """One worker process; started when it is needed, and again when it has died."""

    def __init__(self, config: CompareConfig, number: int) -> None:
        self.config = config
        self.folder = config.folder / "workers"
        self.log, self.settings = self.folder / f"{number}.log", self.folder / f"config-{os.getpid()}-{number}.yaml"
        self.running: subprocess.Popen[str] | None = None
        self.stopped = False

    def do(self, job: Job) -> Outcome:
        process = self.running = self.running or self._start()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(job.to_json() + "\n")
            process.stdin.flush()
        if answer := process.stdout.readline():
            return Outcome(**json.loads(answer))
        self.running = None
        error = f"its process {_how_ended(process.wait())}; see {self.log}"
        if not self.stopped:
            record_failure(self.config, job, error)
        return Outcome(job.kind, job.key, "failed", error)

    def _start(self) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(dump_config(self.config), encoding="utf-8")
        threads = str(self.config.threads or 1)
        quiet = {"DISTILECT_QUIET": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment = {**os.environ, **quiet, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command, pipe = worker_command(self.settings), subprocess.PIPE
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=environment, encoding="utf-8")

    def stop(self) -> None:
        self.stopped = True
        if (process := self.running) is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()
            process.wait()
        self.settings.unlink(missing_ok=True)


def worker_command(settings: Path) -> list[str]:
    """How a worker process is started."""
    return [sys.executable, "-m", "distilect.experiments.worker", str(settings)]


def _how_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


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
