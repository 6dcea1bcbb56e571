"""Any OpenAI-compatible server (vLLM, llama.cpp, TGI, `transformers serve`): how probing scales past one machine.

What a server does not offer is not faked. Scoring needs `echo` with log-probabilities, constrained decoding needs
structured output. Both are tried once at the start; if one fails, the probes that need it are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from typing import Any, TypeVar

from diagnose.config import ModelConfig, urls
from diagnose.errors import BadInput, RunFailed
from diagnose.models.base import LAYOUT, PLAIN_STOP, Completion, Constraint, Score, lay_out, with_system
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Finish, Prompt
from diagnose.redact import redacted_text
from diagnose.text import first_line

SCORED = frozenset({Probe.RANKED, Probe.MARGINS})
DRAWN = frozenset({Probe.SAMPLES, Probe.BEST_OF_N})
SAMPLE_CONSTRAINT: Constraint = {
    "schema": {
        "type": "object",
        "properties": {"zq": {"type": "string", "enum": ["zq"]}},
        "required": ["zq"],
        "additionalProperties": False,
    }
}
HELLO = Prompt((("user", "Hello."),))
"""What a server is tested with: the first item might be too long for it."""
SPARED = {
    "seed": "samples will be others each time",
    "stop": "answers are cut at the stop strings here, after they have been paid for",
    "temperature": "first answers are samples at the server's own temperature, and will be others each time",
}
"""Setting that a request can do without → what that means."""
TOO_LONG = (
    "context length",
    "context_length",
    "context size",
    "maximum context",
    "maximum model length",
    "too long",
    "must have less than",
    "`max_new_tokens` must be",
)
"""How OpenAI, vLLM, SGLang, llama.cpp and TGI report that a prompt does not fit."""
UNKNOWN = Score(None, 0)
"""For a text that the server does not score; None rather than a low score, so that nothing is ranked by it."""
T = TypeVar("T")


class _Refused(Exception):
    """The server rejects this request; `reason` is `too_long` or `server`."""

    def __init__(self, reason: Finish, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ServedModel:
    """One model behind an HTTP endpoint; requests run concurrently and are retried with backoff by the client."""

    def __init__(self, settings: ModelConfig, role: str = "model") -> None:
        """`role` is the config group that messages name.

        Raises:
            BadInput: no base_url or name.
        """
        from openai import AsyncOpenAI

        from diagnose.models.http import BoundedClient, Loop

        for field in ("base_url", "name"):
            if not getattr(settings, field):
                raise BadInput(f"{role}.{field}: missing; {role}.kind=openai needs {role}.base_url and {role}.name")
        self.settings, self.role = settings, role
        self.loop = Loop()
        clients = {
            str(url): AsyncOpenAI(
                base_url=url,
                api_key=os.environ.get(settings.api_key_env) or "none",
                timeout=settings.timeout_seconds,
                max_retries=settings.retries,
                http_client=BoundedClient(settings.timeout_seconds),
            )
            for url in urls(settings)
        }
        self.servers = len(clients)
        self.turns = cycle(clients.items())
        """URL and client of the server to ask next."""
        self.chat = settings.api == "chat"
        # Counted in rows, and one request returns up to 24 of them: a batch must keep all connections busy.
        self.batch_size = settings.batch_size or 16 * settings.concurrency
        self.max_new_tokens = settings.max_new_tokens or 64
        self.device = redacted_text(", ".join(urls(settings)))
        self.fingerprint: str | None = None
        self.lacks: frozenset[Probe] = SCORED if self.chat else frozenset()
        self._several = True
        self._limit = "max_tokens"
        self._told = False
        self._without: set[str] = set()

    @property
    def prompt_format(self) -> dict[str, Any]:
        """The visible part of the prompt format; the rest is null."""
        return {
            "tokenizer": None,
            "chat_template": None,
            "layout": None if self.chat else LAYOUT,
            "bos": None,
            "eos": None,
            "system_prompt": self.settings.system_prompt,
            "stop": self._stop(),
            "mask": "completion",
            "served": f"{self.settings.api}:{self.settings.name}",
        }

    def check(self, items: Sequence[EvalItem]) -> None:
        """Does it answer, and which features does it support?

        Raises:
            BadInput: no usable answer to a first request.
        """
        self.reach()
        self._several = self._tried(lambda: len(self._call(HELLO, 2, 0, 1.0, None))) == 2
        if not self.chat and self._tried(lambda: self._score(HELLO, " a").logprob) is None:
            self.lacks |= SCORED
        drawn = self._tried(lambda: self._side_by_side(self._hot, list(range(8))))
        if drawn and len(set(drawn)) == 1:
            self.lacks |= DRAWN
        if not _fits_sample(self._tried(lambda: self._call(HELLO, 1, 0, 0.0, SAMPLE_CONSTRAINT)[0].text)):
            self.lacks |= {Probe.CONSTRAINED}
        hidden = "tokenizer, chat template, BOS and EOS are not visible over the API and are not compared"
        missing = f"; not supported by this server, so missing: {', '.join(sorted(self.lacks))}" if self.lacks else ""
        print(f"{self.device}: {hidden}{missing}", file=sys.stderr)

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        """See Model; the server ends the answers."""

    def reach(self) -> None:
        """Send a first request to every server.

        Raises:
            BadInput: no usable answer from one of them.
        """
        try:
            for _ in range(self.servers):
                self._call(HELLO, 1, 0, 0.0, None)
        except (RunFailed, _Refused) as error:
            raise BadInput(str(error)) from None

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """Always: the server itself rejects a prompt that does not fit (`too_long`)."""
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        """See Model; a sample's seed is derived from its key and draw, as far as the server honours seeds."""
        every: Sequence[Constraint | None] = constraints or [None] * len(prompts)
        wanted = list(zip(prompts, keys, every, strict=True))
        return self._side_by_side(lambda w: self._ask(w[0], w[1], n, first, temperature, w[2]), wanted)

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """See Model; by `echo` with log-probabilities."""
        pairs = list(zip(prompts, continuations, strict=True))
        return self._side_by_side(lambda pair: self._score(*pair), pairs)

    def _hot(self, seed: int) -> str:
        """A sample that differs from the next one unless the server ignores the temperature (`transformers serve`)."""
        return self._call(HELLO, 1, seed, 2.0, None)[0].text

    def _side_by_side(self, work: Callable[[Any], T], wanted: list[Any]) -> list[T]:
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            return list(pool.map(work, wanted))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            self.loop.cancel()
            raise
        except RunFailed as error:
            kept = "answers received so far are kept; to resume, repeat the command with the same out=DIR"
            raise RunFailed(f"{error}\n  {kept}") from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _ask(
        self, prompt: Prompt, key: str, n: int, first: int, temperature: float, constraint: Constraint | None
    ) -> list[Completion]:
        """n samples in one call if the server supports `n`, else one call each."""
        if n > 1 and self._several:
            with suppress(_Refused):
                done = self._call(prompt, n, _seed(key, first), temperature, constraint)
                if len(done) >= n:
                    return done[:n]
        out: list[Completion] = []
        for draw in range(first, first + n):
            try:
                out += self._call(prompt, 1, _seed(key, draw), temperature, constraint)[:1]
            except _Refused as refused:
                self._tell(refused)
                return [Completion("", 0, refused.reason)] * n
        self._several = self._several and n == 1
        return out

    def _call(
        self, prompt: Prompt, n: int, seed: int, temperature: float, constraint: Constraint | None
    ) -> list[Completion]:
        request: dict[str, Any] = {
            "model": self.settings.name,
            "temperature": temperature,
            self._limit: self.max_new_tokens,
        }
        if self._stop():
            request["stop"] = self._stop()
        if n > 1:
            request["n"] = n
        if temperature > 0:
            request["seed"] = seed
        if self.chat:
            request["messages"] = [{"role": role, "content": text} for role, text in self._turns(prompt)]
        else:
            request["prompt"] = self._text(prompt)
        if constraint is not None:
            request |= self._forced(constraint)
        url, client = next(self.turns)
        create = client.chat.completions.create if self.chat else client.completions.create
        answer = self._request(url, create, {k: v for k, v in request.items() if not self._dropped(k, v)})
        try:
            return [self._read(choice, constraint) for choice in answer.choices]
        except (AttributeError, TypeError):
            raise RunFailed(self._complaint(_unlike(answer), url)) from None

    def _read(self, choice: Any, constraint: Constraint | None) -> Completion:
        text = choice.message.content if self.chat else choice.text
        if text is None or choice.finish_reason == "content_filter":
            # A reasoning model may be cut off before it answers.
            return Completion("", 0, "cut_off" if choice.finish_reason == "length" else "refused")
        if constraint is not None and "choices" in constraint:
            text = _unquoted(text)
        if "stop" in self._without and (cuts := [text.index(stop) for stop in self._stop() if stop in text]):
            return Completion(text[: min(cuts)].encode("utf-8", "replace").decode(), 0, "stop")
        # An unpaired surrogate is valid JSON, but cannot be written to a file.
        text = text.encode("utf-8", "replace").decode()
        return Completion(text, 0, "length" if choice.finish_reason == "length" else "stop")

    def _score(self, prompt: Prompt, continuation: str) -> Score:
        head = self._text(prompt)
        request = {
            "model": self.settings.name,
            "prompt": head + continuation,
            "max_tokens": 1,
            "echo": True,
            "logprobs": 1,
            "temperature": 0.0,
        }
        url, client = next(self.turns)
        try:
            answer = self._request(url, client.completions.create, request)
        except _Refused as refused:
            self._tell(refused)
            return UNKNOWN
        seen = getattr(answer.choices[0], "logprobs", None)
        tokens, logprobs = getattr(seen, "tokens", None) or [], getattr(seen, "token_logprobs", None) or []
        made = getattr(answer.usage, "completion_tokens", None)
        echoed = len(tokens) - (1 if made is None else made)
        mine = logprobs[echoed - _tail(tokens[:echoed], head, continuation) : echoed]
        return UNKNOWN if None in mine or not mine else Score(sum(mine), len(mine))

    def _request(self, url: str, create: Callable[..., Any], request: dict[str, Any]) -> Any:
        """One request; a prompt that the server refuses is recorded, a server that fails ends the run.

        Raises:
            _Refused: the server rejects it.
            RunFailed: no usable answer after all retries.
        """
        import openai

        try:
            answer = self.loop.run(create(**request))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "max_completion_tokens" in str(error) and "max_tokens" in request:
                self._limit = "max_completion_tokens"
                request[self._limit] = request.pop("max_tokens")
                return self._request(url, create, request)
            if setting := self._refuses(error, request):
                return self._request(url, create, {k: v for k, v in request.items() if k != setting})
            too_long = any(words in str(error).lower() for words in TOO_LONG)
            raise _Refused("too_long" if too_long else "server", self._complaint(error, url)) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # the last two: of its JSON
            raise RunFailed(self._complaint(error, url)) from None
        if not getattr(answer, "choices", None):
            raise RunFailed(self._complaint(_unlike(answer), url))
        return answer

    def _refuses(self, error: Exception, request: dict[str, Any]) -> str | None:
        """The setting that a server does not take, and that can honestly be left out; said once, asked once."""
        for name, means in SPARED.items():
            named = name in request and (name != "temperature" or request[name] == 0)
            if named and getattr(error, "param", None) in (None, name) and f"'{name}'" in str(error):
                if name not in self._without:
                    self._without.add(name)
                    print(f"{self.device}: does not take {name!r}: {means}", file=sys.stderr)
                return name
        return None

    def _dropped(self, name: str, value: Any) -> bool:
        """Only the temperature of first answers is left out; of samples it is the usual one."""
        return name in self._without and not (name == "temperature" and value)

    def _complaint(self, error: Exception, url: str) -> str:
        import openai

        # `Connection error.` is not informative; its cause is.
        told = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
        plain = f"; a base model without a chat template needs {self.role}.api=completions" if self.chat else ""
        return redacted_text(
            f"{self.role}.base_url={url}: no usable answer from {self.settings.name!r} with "
            f"{self.role}.retries={self.settings.retries}: {type(error).__name__}: {first_line(told)[:300]}\n"
            f"  expected an OpenAI-compatible server; the API key is read from ${self.settings.api_key_env}{plain}"
        )

    def _tell(self, refused: _Refused) -> None:
        """Report once why items are unscored."""
        if not self._told:
            self._told = True
            print(f"unscored as {refused.reason}: {refused}", file=sys.stderr)

    def _tried(self, work: Callable[[], T]) -> T | None:
        """The result of an optional feature, or None if the server does not have it."""
        try:
            return work()
        except (RunFailed, _Refused):
            return None

    def _forced(self, constraint: Constraint) -> dict[str, Any]:
        schema = constraint.get("schema") or {"type": "string", "enum": constraint["choices"]}
        named = {"name": "answer", "strict": True, "schema": schema}
        if self.chat:
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        return {"extra_body": {"structured_outputs": {"json": schema}, "guided_json": schema}}

    def _stop(self) -> list[str]:
        return list(self.settings.stop) if self.settings.stop is not None else [] if self.chat else [PLAIN_STOP]

    def _turns(self, prompt: Prompt) -> tuple[tuple[str, str], ...]:
        return prompt.turns if prompt.raw else with_system(prompt.turns, self.settings.system_prompt)

    def _text(self, prompt: Prompt) -> str:
        return prompt.turns[0][1] if prompt.raw else lay_out(self._turns(prompt))


def _unlike(answer: Any) -> ValueError:
    return ValueError(f"not a completion: {str(answer)[:80]!r}")


def _tail(tokens: Sequence[str], head: str, continuation: str) -> int:
    """How many of the last echoed tokens make up the continuation; 0 if they do not contain it.

    Counted from the end, because servers include a BOS token in `text_offset` (vLLM) or leave it empty (SGLang). A
    token that straddles the boundary belongs to the continuation, as in HFModel. If the token texts do not add up to
    the prompt (sentencepiece drops spaces, a partial character is U+FFFD), bytes without spaces are counted.
    """
    said = "".join(tokens)
    exact = said.endswith(head + continuation)

    def size(text: str) -> int:
        return len(text) if exact else len(_unspaced(text).replace("\ufffd", "?").encode())

    if not exact and "\ufffd" not in said and not _unspaced(said).endswith(_unspaced(continuation)):
        return 0
    held = count = 0
    while held < size(continuation) and count < len(tokens):
        count += 1
        held += size(tokens[-count])
    return count if held >= size(continuation) else 0


def _unspaced(text: str) -> str:
    return "".join(text.split())


def _seed(key: str, draw: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{key}|{draw}".encode()).digest()[:4], "big") >> 1


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _fits_sample(text: str | None) -> bool:
    try:
        return bool(json.loads(text or "") == {"zq": "zq"})
    except ValueError:
        return False
