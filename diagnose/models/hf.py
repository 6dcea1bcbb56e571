"""transformers models: batched generation and scoring, and checks of what was loaded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diagnose.config import DTYPES, ModelConfig
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.models.adapter import check_prompt_format, with_adapter
from diagnose.models.base import Completion, Constraint, Score, check_windows, with_system
from diagnose.models.batches import Halving
from diagnose.models.prefill import Reader
from diagnose.models.weights import (
    asked_ids,
    best_device,
    end_ids,
    fingerprint_of,
    load_base,
    load_tokenizer,
    plain_ids,
    prompt_format_of,
    stop_strings,
)
from diagnose.probes.table import Probe
from diagnose.records import EvalItem, Finish, Prompt
from diagnose.text import first_line, override

if TYPE_CHECKING:
    from diagnose.models.constrain import Grammars

END_CHECK_PROMPTS, END_CHECK_SECONDS, END_CHECK_STEPS = 8, 20.0, 384
"""Free continuations that show how the model really stops: at most so many, started within this time, each of at most
so many tokens (all hand-set)."""
END_CHECK_DECIDES = 2
"""So many that end with another token, and none as configured, decide (hand-set)."""
Wanted = tuple[Prompt, str, Constraint | None]
"""A prompt, the key of its random numbers, and what its answer is constrained to."""


class HFModel:
    """A transformers causal language model from a directory or the hub, with a LoRA adapter on or off."""

    def __init__(self, settings: ModelConfig) -> None:
        """Load.

        Raises:
            BadInput: no such model, no weights in safetensors, no tokenizer, an unknown end token.
        """
        assert settings.path is not None
        self.settings = settings
        if (settings.dtype or "auto") not in DTYPES:
            raise BadInput(f"model.dtype={settings.dtype}: allowed: {', '.join(DTYPES)}")
        self.tokenizer = load_tokenizer(settings)
        self.device = settings.device or best_device()
        model = load_base(settings, self.device)
        config = model.config
        if settings.adapter:
            model = with_adapter(model, settings.adapter, settings.path)
            check_prompt_format(settings, self.tokenizer)
        self.network = model.eval()
        self.batch_size = settings.batch_size or 32
        self.max_new_tokens = settings.max_new_tokens or 64
        window = getattr(config, "max_position_embeddings", None) or 4096
        self.max_length = min(settings.max_length or window, window)
        self.stop = stop_strings(settings, self.tokenizer)
        self.ends = end_ids(settings, self.tokenizer, model)
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.reader = Reader(self.network, self.pad)
        self.lacks: frozenset[Probe] = frozenset() if self.tokenizer.is_fast else frozenset({Probe.CONSTRAINED})
        self.halving = Halving(self.device)
        self._may_stop: dict[int, bool] = {}
        self._constrainer: Any = None

    @property
    def prompt_format(self) -> dict[str, Any]:
        """The prompt format of this model."""
        return prompt_format_of(self.settings, self.tokenizer, self.ends)

    @property
    def fingerprint(self) -> str | None:
        """See Model; reads every weight, about a second per gigabyte."""
        return fingerprint_of(self.network, self.prompt_format)

    def check(self, items: Sequence[EvalItem]) -> None:
        """See Model."""
        check_tokens(self, items)
        check_answer_length(self, items)
        check_windows(self, items)

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        """See Model."""
        check_end_token(self, [Prompt(i.turns) for i in items[:END_CHECK_PROMPTS]], seed)

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        """See Model."""
        if continuation is not None:
            return len(self.encode(prompt, continuation)) <= self.max_length
        return len(self.encode(prompt)) + self.max_new_tokens <= self.max_length

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        """See Model; each prompt is prefilled once, and a batch that runs out of memory is halved."""
        every: Sequence[Constraint | None] = constraints or [None] * len(prompts)
        rows = list(zip(prompts, keys, every, strict=True))
        return self.halving.run(
            rows,
            lambda part: self._generate(part, n, first, temperature),
            lambda row: self._fewer(row, n, first, temperature),
            each=n,
        )

    def _fewer(self, row: Wanted, n: int, first: int, temperature: float) -> list[list[Completion]]:
        """The samples of one prompt in two parts, because they do not fit into memory together."""
        prompt, key, constraint = row
        if n == 1:
            tokens = len(self.encode(prompt))
            raise RunFailed(f"out of memory on one prompt of {tokens} tokens on {self.device}")
        less = n // 2
        self.halving.tell(n, less)
        constraints = None if constraint is None else [constraint]
        parts = [
            self.generate([prompt], [key], count, start, temperature, constraints)[0]
            for count, start in ((less, first), (n - less, first + less))
        ]
        return [parts[0] + parts[1]]

    def _generate(self, rows: Sequence[Wanted], n: int, first: int, temperature: float) -> list[list[Completion]]:
        from diagnose.models.decode import decode, uniforms

        noise = None
        if temperature > 0:
            noise = uniforms([f"{key}|{d}" for _, key, _ in rows for d in range(first, first + n)], self.max_new_tokens)
        constraints = [constraint for _, _, constraint in rows for _ in range(n) if constraint is not None]
        found = decode(
            self.reader,
            [self.encode(prompt) for prompt, _, _ in rows],
            copies=n,
            steps=self.max_new_tokens,
            ends=self.ends,
            temperature=temperature,
            noise=noise,
            stopped=self._stopped if self.stop else None,
            grammar=self._grammar(constraints) if constraints else None,
        )
        done = [self._completion(row) for row in found]
        return [done[i : i + n] for i in range(0, len(done), n)]

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """See Model."""
        from diagnose.models.decode import score

        alone = {p: self.encode(p) for p in dict.fromkeys(prompts)}
        split = [_split(alone[p], self.encode(p, c)) for p, c in zip(prompts, continuations, strict=True)]

        def scored(rows: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
            tails = [tail for _, tail in rows]
            sums = score(self.reader, [head for head, _ in rows], tails)
            return [Score(total, len(tail)) for total, tail in zip(sums, tails, strict=True)]

        def too_long(row: tuple[list[int], list[int]]) -> list[Score]:
            raise RunFailed(f"out of memory on one text of {len(row[0] + row[1])} tokens on {self.device}")

        return self.halving.run(split, scored, too_long)

    def encode(self, prompt: Prompt, continuation: str = "") -> list[int]:
        """Token ids of a prompt, the same as in training."""
        turns = prompt.turns if prompt.raw else with_system(prompt.turns, self.settings.system_prompt)
        if prompt.raw:
            return plain_ids(self.tokenizer, turns[0][1] + continuation)
        try:
            return asked_ids(self.tokenizer, turns, continuation)
        except Exception as error:  # of the chat template
            roles = ", ".join(role for role, _ in turns)
            told = f"its chat template does not accept {roles}: {first_line(error)}"
            raise BadInput(f"model.path={self.settings.path}: {told}") from None

    def emitted_special(self, prompt: Prompt, key: str, steps: int = END_CHECK_STEPS) -> str | None:
        """The special token that ends a free continuation: how the model really stops. None: none did."""
        from diagnose.models.decode import decode, uniforms

        # A token that the configuration does not name may be special too, such as Llama 3's <|eot_id|>.
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        specials = added | set(self.tokenizer.all_special_ids) | self.ends
        head = self.encode(prompt)[-64:]
        steps = min(steps, self.max_length - len(head))
        noise = uniforms([key], steps)

        def continued(heads: Sequence[list[int]]) -> list[list[int]]:
            return decode(self.reader, list(heads), copies=1, steps=steps, ends=specials, temperature=1.0, noise=noise)

        (row,) = self.halving.run([head], continued)
        token: str | None = self.tokenizer.convert_ids_to_tokens(row[-1]) if row[-1] in specials else None
        return token

    def _grammar(self, constraints: list[Constraint]) -> Grammars:
        from diagnose.models.constrain import Grammars

        if self._constrainer is None:
            from llguidance.hf import from_tokenizer

            size = max(len(self.tokenizer), self.network.config.get_text_config().vocab_size)
            self._constrainer = from_tokenizer(self.tokenizer, n_vocab=size, eos_token=sorted(self.ends))
        return Grammars(self._constrainer, constraints)

    def _stopped(self, row: list[int]) -> bool:
        token = row[-1]
        if token not in self._may_stop:
            # A stop string can only end inside the newest token, and most tokens have no stop string's last character.
            text = self.tokenizer.decode([token])
            self._may_stop[token] = any(stop[-1:] in text for stop in self.stop)
        if not self._may_stop[token]:
            return False
        tail = self.tokenizer.decode(row[-16:], skip_special_tokens=True)
        return any(stop in tail for stop in self.stop)

    def _completion(self, row: list[int]) -> Completion:
        ended = bool(row) and row[-1] in self.ends
        text = self.tokenizer.decode(row[:-1] if ended else row, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in self.stop if stop in text]
        finish: Finish = "stop" if ended or cuts or len(row) < self.max_new_tokens else "length"
        return Completion(text[: min(cuts)] if cuts else text, len(row), finish)


def _split(head: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """Ids before and within a continuation; a token that straddles the boundary belongs to the continuation."""
    shared = 0
    while shared < min(len(head), len(whole) - 1) and head[shared] == whole[shared]:
        shared += 1
    return whole[:shared], whole[shared:]


def check_end_token(
    model: HFModel, prompts: Sequence[Prompt], seed: int, clock: Callable[[], float] = time.monotonic
) -> None:
    """Refuse a model that never ends with its configured end token but with another one.

    Such a model runs every answer to the limit, so training seems to have failed whatever it learned. One continuation
    that ends as configured shows that it is not such a model; the time is limited because one that never ends is slow.

    Raises:
        Blocked: naming both tokens and the override that fixes it.
    """
    if model.settings.eos_token:
        return
    print(f"checking the end token … (at most about {END_CHECK_SECONDS:.0f} s)", file=sys.stderr, flush=True)
    configured = model.tokenizer.convert_ids_to_tokens(sorted(model.ends))
    others: list[str] = []
    tried, start = 0, clock()
    for prompt in prompts:
        token = model.emitted_special(prompt, f"{seed}|end|{tried}")
        tried += 1
        if token in configured:
            return
        others += [token] if token else []
        if len(others) >= END_CHECK_DECIDES or clock() - start >= END_CHECK_SECONDS:
            break
    if others:
        token = max(others, key=others.count)
        raise Blocked(
            f"end token: the model is configured to end with {', '.join(map(repr, configured))}, but "
            f"{others.count(token)} of {tried} free continuations ended with {token!r}, none as configured.\n"
            f"  fix:    {override('model.eos_token', token)}\n"
            f"  keep:   {override('model.eos_token', configured[0])}   (no further check)"
        )


def check_tokens(model: HFModel, items: Sequence[EvalItem]) -> None:
    """Refuse another model's tokenizer, and weights that output NaN.

    Raises:
        BadInput: naming the mismatch, or the dtypes to try.
    """
    rows = model.network.get_input_embeddings().weight.shape[0]
    # Some tokenizers have more tokens than the model; texts never use the extra ones.
    if len(model.tokenizer) > rows:
        last = max(max(model.encode(Prompt(i.turns)), default=0) for i in items)
        if max(last, model.pad) >= rows:
            raise BadInput(
                f"model.path={model.settings.path}: the tokenizer has {len(model.tokenizer)} tokens, the model {rows}; "
                "they do not belong together"
            )
    shortest = min((Prompt(i.turns) for i in items), key=lambda p: len(p.turns[-1][1]))
    if model.fits(shortest, "x"):
        (found,) = model.logprob([shortest], ["x"])
        if found.logprob != found.logprob:
            raise BadInput(
                f"model.path={model.settings.path}: the model outputs NaN: broken weights, or dtype overflow; set "
                "model.dtype=float32 or bfloat16"
            )


def check_answer_length(model: HFModel, items: Sequence[EvalItem]) -> None:
    """Refuse a limit that cuts off the reference answers themselves: right answers would be graded as wrong.

    Raises:
        BadInput: naming an item and a limit that suffices.
    """
    lengths = {
        i.id: len(model.tokenizer(i.wanted, add_special_tokens=False)["input_ids"]) + 1 for i in items if i.wanted
    }
    cut = [i for i in items if lengths.get(i.id, 0) > model.max_new_tokens]
    if cut:
        longest = max(cut, key=lambda i: lengths[i.id])
        need = lengths[longest.id]
        raise BadInput(
            f"model.max_new_tokens={model.max_new_tokens}: too short for the reference answers of {len(cut)} items; "
            f"{longest.where} ({longest.id}) needs {need}: set model.max_new_tokens={need + 8}"
        )
