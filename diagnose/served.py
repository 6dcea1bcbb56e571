"""Any OpenAI-compatible server (vLLM, llama.cpp, TGI, `transformers serve`): how probing scales past one machine.

What a server does not offer is not faked: scoring needs `echo` with log-probabilities, forced answers need structured
output, and both are tried once at the start; the probes that need them are then missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from diagnose.config import ModelConfig
from diagnose.errors import BadInput, RunFailed
from diagnose.model import LAYOUT, PLAIN_STOP, Completion, Form, Score, lay_out
from diagnose.records import EvalItem, Prompt

SCORED = frozenset({"ranked", "margins"})
SAMPLE_FORM: Form = {
    "schema": {
        "type": "object",
        "properties": {"zq": {"type": "string", "enum": ["zq"]}},
        "required": ["zq"],
        "additionalProperties": False,
    }
}
T = TypeVar("T")


class ServedModel:
    """One model behind an HTTP endpoint; requests run side by side and are retried with backoff by the client."""

    def __init__(self, settings: ModelConfig, key: str | None = None) -> None:
        """`key` stands in for the environment variable that the settings name.

        Raises:
            BadInput: no base_url or name.
        """
        from openai import OpenAI

        for field in ("base_url", "name"):
            if not getattr(settings, field):
                raise BadInput(f"model.{field}: missing; model.kind=openai needs model.base_url and model.name")
        self.settings = settings
        self.client = OpenAI(
            base_url=settings.base_url,
            api_key=key or os.environ.get(settings.api_key_env) or "none",
            timeout=settings.timeout_seconds,
            max_retries=settings.retries,
        )
        self.chat = settings.api == "chat"
        self.batch_size = settings.batch_size or 4 * settings.concurrency
        self.max_new_tokens = settings.max_new_tokens or 64
        self.device = f"{settings.base_url}"
        self.lacks = SCORED if self.chat else frozenset()
        self._several = True
        self._limit = "max_tokens"

    @property
    def render(self) -> dict[str, Any]:
        """What can be seen of the render contract; the rest is null."""
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

    def check(self, items: Sequence[EvalItem], seed: int) -> None:
        """Is somebody there, does it answer, and what does it offer?

        Raises:
            BadInput: no usable answer to a first request.
        """
        first = Prompt(items[0].turns)
        try:
            self._ask(first, "check", 1, 0, 0.0, None)
        except RunFailed as error:
            raise BadInput(str(error)) from None
        if not self.chat and self._tried(lambda: self.logprob([first], [" a"])) is None:
            self.lacks |= SCORED
        forced = self._tried(lambda: self._ask(first, "check", 1, 0, 0.0, SAMPLE_FORM)[0].text)
        if not _fits_sample(forced):
            self.lacks |= {"constrained"}
        blind = "tokenizer, chat template, BOS and EOS of a served model cannot be seen, so they are not compared"
        missing = f"; not offered, so missing: {', '.join(sorted(self.lacks))}" if self.lacks else ""
        print(f"{self.settings.base_url}: {blind}{missing}", file=sys.stderr)

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """The server knows; it answers `too_long` where a prompt does not fit."""
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        forms: Sequence[Form] | None = None,
    ) -> list[list[Completion]]:
        """See Model; a sample's seed is derived from its key and draw, as far as the server honours seeds."""
        every: Sequence[Form | None] = forms or [None] * len(prompts)
        wanted = list(zip(prompts, keys, every, strict=True))
        return self._side_by_side(lambda w: self._ask(w[0], w[1], n, first, temperature, w[2]), wanted)

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """See Model; by `echo` with log-probabilities."""
        pairs = list(zip(prompts, continuations, strict=True))
        return self._side_by_side(lambda pair: self._score(*pair), pairs)

    def _side_by_side(self, work: Callable[[Any], T], wanted: list[Any]) -> list[T]:
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            return list(pool.map(work, wanted))

    def _ask(
        self, prompt: Prompt, key: str, n: int, first: int, temperature: float, form: Form | None
    ) -> list[Completion]:
        """n samples in one call where the server gives n; else one call each."""
        at_once = n if self._several else 1
        done = self._call(prompt, at_once, _seed(key, first), temperature, form)
        if len(done) < at_once:
            self._several = False
        while len(done) < n:
            done += self._call(prompt, 1, _seed(key, first + len(done)), temperature, form)[:1]
        return done[:n]

    def _call(self, prompt: Prompt, n: int, seed: int, temperature: float, form: Form | None) -> list[Completion]:
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
        if form is not None:
            request |= self._forced(form)
        create = self.client.chat.completions.create if self.chat else self.client.completions.create
        answer = self._request(create, request)
        if isinstance(answer, Completion):
            return [answer] * n
        return [self._read(choice, form) for choice in answer.choices]

    def _read(self, choice: Any, form: Form | None) -> Completion:
        text = choice.message.content if self.chat else choice.text
        if text is None or choice.finish_reason == "content_filter":
            return Completion("", 0, "refused")
        if form is not None and "choices" in form:
            text = _unquoted(text)
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
        answer = self._request(self.client.completions.create, request)
        seen = None if isinstance(answer, Completion) else answer.choices[0].logprobs
        if seen is None or not seen.text_offset or seen.token_logprobs is None:
            raise RunFailed(f"{self.settings.base_url}: returned no log-probabilities for an echoed prompt")
        end = len(head) + len(continuation)
        spans = zip(seen.text_offset, seen.tokens, seen.token_logprobs, strict=True)
        # A token that straddles the border belongs to the continuation, as in HFModel.
        mine = [p for at, token, p in spans if at + len(token) > len(head) and at < end and p is not None]
        return Score(sum(mine), len(mine))

    def _request(self, create: Callable[..., Any], request: dict[str, Any]) -> Any:
        """One request; a prompt that the server refuses is data, a server that fails is the end of the run.

        Raises:
            RunFailed: no usable answer after all retries.
        """
        import openai

        try:
            answer = create(**request)
        except openai.BadRequestError as error:
            if "max_completion_tokens" in str(error) and self._limit == "max_tokens":
                self._limit = "max_completion_tokens"
                return self._request(create, {self._limit: request.pop("max_tokens"), **request})
            too_long = any(word in str(error).lower() for word in ("context length", "maximum context", "too long"))
            return Completion("", 0, "too_long" if too_long else "refused")
        except (openai.OpenAIError, ValueError) as error:
            raise RunFailed(self._complaint(error)) from None
        if not getattr(answer, "choices", None):
            raise RunFailed(self._complaint(ValueError(f"not a completion: {str(answer)[:80]!r}")))
        return answer

    def _complaint(self, error: Exception) -> str:
        tries = self.settings.retries + 1
        return (
            f"model.base_url={self.settings.base_url}: no usable answer from {self.settings.name!r} in {tries} tries: "
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}\n"
            "  expected an OpenAI-compatible server; what was answered so far is kept, and the same command with the "
            "same out=DIR goes on from there"
        )

    def _tried(self, work: Callable[[], T]) -> T | None:
        """What an optional feature gives, or None where the server does not have it."""
        try:
            return work()
        except RunFailed:
            return None

    def _forced(self, form: Form) -> dict[str, Any]:
        schema = form.get("schema") or {"type": "string", "enum": form["choices"]}
        named = {"name": "answer", "strict": True, "schema": schema}
        if self.chat:
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        return {"extra_body": {"structured_outputs": {"json": schema}, "guided_json": schema}}

    def _stop(self) -> list[str]:
        return list(self.settings.stop) if self.settings.stop is not None else [] if self.chat else [PLAIN_STOP]

    def _turns(self, prompt: Prompt) -> tuple[tuple[str, str], ...]:
        system = self.settings.system_prompt
        return (("system", system), *prompt.turns) if system and not prompt.raw else prompt.turns

    def _text(self, prompt: Prompt) -> str:
        return prompt.turns[0][1] if prompt.raw else lay_out(self._turns(prompt))


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
