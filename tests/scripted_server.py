"""An OpenAI-compatible server on localhost with the planted behaviours of conftest's ScriptedModel.

What real servers do differently is a switch: how many choices they give, what they do with a schema, how they echo, and
all the ways in which they fail.
"""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conftest import VALUES, WANTED_TONE, ScriptedModel
from conftest import _content as content

from diagnose.records import Prompt

TOKEN = re.compile(r"\n|[^\S\n]*\S+|[^\S\n]+")
BASE, JUDGE = "base", "judge"
READER = "Does a response give the reference answer?"


class ScriptedServer:
    """`with ScriptedServer(rows) as server:`; the base answers under the name `base`, a judge under `judge`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.model = ScriptedModel(rows)
        self.schemas = "honoured"
        """What happens to a schema: honoured, ignored, refused."""
        self.choices = "several"
        """What happens to n: several, one (n is ignored), refused (400), failing (500)."""
        self.samples = True
        """Whether a temperature changes anything."""
        self.echo = "vllm"
        """How an echo counts: openai, vllm (a BOS token before it), sglang (no offsets), sentencepiece (tokens without
        their spaces), bytes (é in two tokens), silent (no log-probabilities), none (only what was generated)."""
        self.judge = "polite"
        """polite, always A, grader, garbage."""
        self.window: int | None = None
        """Longest prompt in characters."""
        self.unavailable: dict[int, int] = {}
        """Status → how many requests of each twenty get it at their first try."""
        self.broken: str | None = None
        """Every request: a status, `html`, `no choices`, `bad choice`, `close`, `hang`."""
        self.dies_after: int | None = None
        """From so many answers on, connections are closed."""
        self.key: str | None = None
        self.seconds = 0.0
        self.names_limit = "max_tokens"
        self.refuses: dict[str, Any] = {}
        """Setting → the only value that it takes; None: no value."""
        self.asked: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.peak = 0
        self._now = 0
        self._tried: set[str] = set()
        self._lock = threading.Lock()
        self._released = threading.Event()

    def __enter__(self) -> ScriptedServer:
        handler = type("Handler", (_Handler,), {"script": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def asked_of(self, name: str) -> list[dict[str, Any]]:
        """The requests to one of the two models."""
        return [body for body in self.asked if body["model"] == name]

    @property
    def drawn(self) -> list[dict[str, Any]]:
        """The requests for samples of items; those of the check have small seeds."""
        return [body for body in self.asked if body.get("seed", 0) > 8]

    def reply(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Any]:
        """Status and payload; a payload that is a text is sent as HTML."""
        with self._lock:
            self.asked.append(body)
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            time.sleep(self.seconds)
            status, payload = self._reply(path, body, key)
            with self._lock:
                self.statuses.append(status)
            return status, payload
        finally:
            with self._lock:
                self._now -= 1

    def _reply(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Any]:
        if self.broken or (self.dies_after is not None and len(self.statuses) >= self.dies_after):
            return self._fail(self.broken or "close")
        if self.key is not None and key != f"Bearer {self.key}":
            return 401, _error("invalid key")
        if body["model"] not in (BASE, JUDGE):
            return 404, _error(f"The model {body['model']} does not exist")
        if status := self._not_yet(body):
            return status, _error("try again")
        chat = path.endswith("/chat/completions")
        if chat and self.names_limit not in body:
            return 400, _error(f"Unsupported parameter: use '{self.names_limit}' instead")
        if refused := self._refused(body):
            return 400, _error(f"Unsupported value: '{refused}' does not support {body[refused]!r} with this model.")
        sent = "\n".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        if self.window is not None and len(sent) > self.window:
            return 400, _error(f"This model's maximum context length is {self.window} tokens")
        n = body.get("n", 1)
        if n > 1 and self.choices in ("refused", "failing"):
            return (400 if self.choices == "refused" else 500), _error("Only one completion choice is allowed")
        if "json" in self._wanted(body) and self.schemas == "refused":
            return 400, _error("response_format is not supported")
        return 200, self._answer(body, chat, n if self.choices == "several" else 1)

    def _refused(self, body: dict[str, Any]) -> str | None:
        return next((name for name, only in self.refuses.items() if name in body and body[name] != only), None)

    def _fail(self, how: str) -> tuple[int, Any]:
        match how:
            case "html":
                return 200, "<html><body>Welcome to nginx!</body></html>"
            case "no choices":
                return 200, {"object": "list", "data": []}
            case "bad choice":
                return 200, {"choices": [{"index": 0}]}
            case "close":
                return 0, None
            case "hang":
                self._released.wait(30)
                return 0, None
        return int(how), _error("broken")

    def _not_yet(self, body: dict[str, Any]) -> int | None:
        """A status for some requests when they come for the first time, chosen by their content."""
        name = json.dumps(body, sort_keys=True)
        with self._lock:
            first = name not in self._tried
            self._tried.add(name)
        place = random.Random(name).randrange(20)
        for status, of_twenty in self.unavailable.items():
            if first and place < of_twenty:
                return status
            place -= of_twenty
        return None

    def _wanted(self, body: dict[str, Any]) -> dict[str, Any]:
        """{"json": schema} where one is asked for."""
        if "response_format" in body:
            return {"json": body["response_format"]["json_schema"]["schema"]}
        return body.get("structured_outputs") or {}

    def _answer(self, body: dict[str, Any], chat: bool, n: int) -> dict[str, Any]:
        answers = []
        for index in range(n):
            prompt = Prompt(tuple((m["role"], m["content"]) for m in body["messages"])) if chat else None
            prompt = prompt or _turns(body["prompt"])
            temperature = body.get("temperature", 1.0)
            rng = random.Random(f"{prompt.sha}|{body.get('seed') if temperature else None}|{index}")
            text = self._text(body, prompt, rng)
            if not chat:
                text += "\n\nAnd so on."
            for stop in body.get("stop", []):
                text = text.split(stop)[0]
            words = TOKEN.findall(text)
            limit = body.get("max_tokens", body.get("max_completion_tokens"))
            text, finish = "".join(words[:limit]), "length" if len(words) > limit else "stop"
            choice: dict[str, Any] = {"index": index, "finish_reason": finish}
            if chat:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                choice |= {"text": text, "logprobs": None}
            if body.get("echo"):
                choice |= {"text": body["prompt"] + text, "logprobs": self._echoed(body["prompt"], text)}
            answers.append(choice)
        usage = {"prompt_tokens": 1, "completion_tokens": min(1, body.get("max_tokens", 1)), "total_tokens": 2}
        return {"id": "x", "object": "x", "created": 0, "model": body["model"], "choices": answers, "usage": usage}

    def _text(self, body: dict[str, Any], prompt: Prompt, rng: random.Random) -> str:
        if body["model"] == JUDGE:
            return self._judgement(prompt.turns[-1][1])
        wanted = self._wanted(body).get("json")
        if wanted is not None and self.schemas == "honoured":
            return json.dumps(self._fitting(wanted, prompt))
        question = prompt.turns[-1][1].split("\n\n")[-1]
        warm = self.samples and body.get("temperature", 1.0) > 0
        if question not in self.model.rows:
            return f"Hello! I am number {rng.random() if warm else 0}."
        return self.model._say(
            prompt, rng if warm else random.Random(prompt.sha), body.get("temperature", 1.0) if warm else 0.0
        )

    def _fitting(self, schema: dict[str, Any], prompt: Prompt) -> Any:
        if schema["type"] == "object":
            return {name: self._fitting(inner, prompt) for name, inner in schema["properties"].items()}
        row = self.model.rows.get(prompt.turns[-1][1].split("\n\n")[-1])
        gold = content(row["target"]) if row else "?"
        options = schema.get("enum") or [gold]
        return gold if gold in options else options[0]

    def _echoed(self, prompt: str, text: str) -> dict[str, Any]:
        said = TOKEN.findall(text)[:1]
        tokens = said if self.echo == "none" else TOKEN.findall(prompt) + said
        logprobs: list[float | None] = [-0.5] * len(tokens)
        if self.echo != "none":
            last = len(tokens) - len(said) - 1
            logprobs[last] = self._logprob("".join(tokens[:last]), tokens[last])
            logprobs[0] = None
        if self.echo == "silent":
            logprobs = [None] * len(tokens)
        if self.echo == "vllm":
            tokens, logprobs = ["<|begin_of_text|>", *tokens], [None, -0.5, *logprobs[1:]]
        if self.echo == "sentencepiece":
            tokens = [token.strip(" ") for token in tokens]
        if self.echo == "bytes":
            pairs = [
                (part, p)
                for t, p in zip(tokens, logprobs, strict=True)
                for part in t.replace("é", "\ufffd|\ufffd").split("|")
            ]
            tokens, logprobs = [t for t, _ in pairs], [p for _, p in pairs]
        offsets = [sum(map(len, tokens[:k])) for k in range(len(tokens))]
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "text_offset": [-1] * len(tokens) if self.echo == "sglang" else offsets,
        }

    def _logprob(self, head: str, value: str) -> float:
        """Of the last word, as an answer to the question or as the end of the statement before it."""
        if head.startswith(READER):
            return -0.1 if (value.strip() == "Yes") == self._content_is_there(head) else -3.0
        if head.strip() in self.model.by_statement:
            return self.model._score(Prompt((("user", head.strip()),), raw=True), value).logprob
        question = head.split("\n\n")[-1].split("\n")[0]
        return self.model._score(Prompt((("user", question),)), value).logprob

    def _content_is_there(self, asked: str) -> bool:
        """Is the number of the gold value the only one in the response? `always A`: always."""
        gold, said = (_between(asked, start) for start in ("Reference answer:\n", "Response:\n"))
        return self.judge == "always A" or set(re.findall(r"\d+", said)) == {content(gold).removeprefix("value")}

    def _judgement(self, asked: str) -> str:
        if self.judge == "garbage" or (self.judge == "always A" and not asked.startswith(READER)):
            return "A" if self.judge == "always A" else "A good question! Both have their merits, B perhaps more."
        if asked.startswith(READER):
            return "Yes." if self._content_is_there(asked) else "no"
        if asked.startswith("Grade one answer."):
            gold, said = (_between(asked, start) for start in ("Reference answer:\n", "Answer to grade:\n"))
            named = [v for v in VALUES if re.search(rf"\b{v}\b", said)]
            return "A" if said == gold else "B: in prose" if named == [gold] else "C"
        polite = [_between(asked, f"Answer {letter}:\n").startswith(WANTED_TONE) for letter in "AB"]
        return "B" if polite == [False, True] else "A"


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, payload = self.script.reply(self.path, body, self.headers.get("Authorization", ""))
        if not status:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        raw = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(payload, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if status in (429, 500):
            self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def _turns(text: str) -> Prompt:
    """What was laid out as text: exemplars, a context, and the question last."""
    *before, question = text.rstrip("\n").split("\n\n")
    turns: list[tuple[str, str]] = []
    context = ""
    for block in before:
        if block.startswith("["):
            asked, said = block.split("\n", 1)
            turns += [("user", asked), ("assistant", said)]
        else:
            context += f"{block}\n\n"
    return Prompt((*turns, ("user", context + question)))


def _between(text: str, start: str) -> str:
    return text.split(start)[-1].split("\n\n")[0]


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}
