"""A real OpenAI-compatible server on loopback, with answers by a rule and faults on demand."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SURE = 0.9  # probability of the label that the rule chooses


def first_word(text: str) -> str:
    """`bad …` is no, all others are yes: what `tests.pipeline.helpers.write_table` labels."""
    return "no" if text.startswith("bad") else "yes"


@dataclass
class Server:
    """What it can do, what it does wrong, and what it was asked.

    Attributes:
        gives: of completions, echo (as llama.cpp: text alone), chat (log-probabilities), several (samples in one call), settings
            (temperature and the like).
        faults: text → what its next requests meet: a status, slow, garbage, empty, cut, or off.
        asked: text → requests; answered: text → those with a whole answer. keys: of all requests.
        waits: called with each text before it is answered.
    """

    labels: tuple[str, ...] = ("no", "yes")
    rule: Callable[[str], str] = first_word
    gives: tuple[str, ...] = ("completions", "chat", "several", "settings")
    faults: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    requests: int = 0
    waits: Callable[[str], object] = lambda text: None
    url: str = ""
    slow: float = 1.0
    counts: bool = True  # tokens
    retry_after: dict[str, str] = field(default_factory=lambda: {"retry-after": "0.02"})

    def respond(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, JSON) of a request without a fault."""
        if path == "/v1/completions":
            if "completions" not in self.gives and "echo" not in self.gives:
                return 404, {"error": {"message": "no such route"}}
            return 200, self._completions(body["prompt"])
        if "settings" not in self.gives and ("temperature" in body or "max_tokens" in body):
            return 400, {"error": {"message": "temperature is not supported"}}
        if body.get("n", 1) > 1 and "several" not in self.gives:
            return 400, {"error": {"message": "n must be 1"}}
        text = text_of(body["messages"][0]["content"])
        label = self.rule(text)
        choices = [self._choice(label, body.get("logprobs"), n) for n in range(body.get("n", 1))]
        return 200, {"id": "1", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage(40, 2)}

    def _choice(self, label: str, logprobs: Any, index: int) -> dict[str, Any]:
        choice = {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": label.title()}}
        if logprobs and "chat" in self.gives:
            rest = (1 - SURE) / max(1, len(self.labels) - 1)
            top = [{"token": one, "logprob": math.log(SURE if one == label else rest)} for one in self.labels]
            choice["logprobs"] = {"content": [{"token": label, "logprob": math.log(SURE), "top_logprobs": top}]}
        return choice

    def _completions(self, prompts: list[str]) -> dict[str, Any]:
        choices = []
        for index, prompt in enumerate(prompts):
            label = self.rule(text_of(prompt))
            tokens = re.findall(r"\s?\S+|\s", prompt)
            said = tokens[-2].strip()
            logprobs = [None, *[-2.5] * (len(tokens) - 3), math.log(SURE if said == label else 1 - SURE), -0.1]
            found = {"tokens": tokens, "token_logprobs": logprobs}
            if "echo" in self.gives:
                found = {"tokens": ["I"], "token_logprobs": [-0.5]}
            choices.append({"index": index, "text": prompt, "finish_reason": "length", "logprobs": found})
        choices.reverse()  # the order is in `index`
        return {"id": "1", "object": "text_completion", "model": "m", "choices": choices, "usage": usage(80, 0)}


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def text_of(prompt: str | list[str]) -> str:
    """The row's text within a prompt."""
    found = re.search(r"(?m)^Text(?: 1)?: (.*)$", prompt if isinstance(prompt, str) else prompt[0])
    assert found is not None, prompt
    return found[1]


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """A server on a free port, for as long as the block lasts."""
    server = Server(**settings)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = text_of(body["prompt"] if "prompt" in body else body["messages"][0]["content"])
            with lock:
                server.keys.add(str(self.headers["authorization"]))
                server.requests += 1
                server.asked[text] += 1
                fault = server.faults[text].pop(0) if server.faults[text] else None
            server.waits(text)
            if isinstance(fault, int):
                said = {"error": {"message": f"fault {fault}, your key was {self.headers['authorization']}"}}
                return self.reply(fault, json.dumps(said).encode(), server.retry_after)
            if fault == "slow":
                time.sleep(server.slow)
            status, found = server.respond(self.path, body)
            if not server.counts:
                found.pop("usage", None)
            if fault == "off":
                for choice in found["choices"]:
                    choice.update(message={"role": "assistant", "content": "I would rather not"}, logprobs=None)
            content = json.dumps(found).encode()
            if fault == "garbage":
                content = b'{"choices": [{"ind'
            elif fault == "empty":
                content = b'{"choices": []}'
            elif fault == "cut":
                return self.reply(200, content[: len(content) // 2], length=len(content))
            elif fault is None and status == 200:
                with lock:
                    server.answered[text] += 1
            self.reply(status, content)

        def reply(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, length: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(length or len(content)))
            self.end_headers()
            with suppress(OSError):  # the client has given up
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
