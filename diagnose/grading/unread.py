"""Why a response gives no answer that could be right or wrong: empty, refused, in another language, only thought."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex

from diagnose.grading.language import sure_language
from diagnose.grading.words import FUNCTION_WORDS
from diagnose.records import EvalItem, Unread

THOUGHT = regex.compile(
    r"<(think|thinking|thought|reasoning|reflection|scratchpad)>.*?</\1>|◁think▷.*?◁/think▷"
    r"|<\|channel\|>analysis<\|message\|>.*?(?:<\|end\|>|(?=<\|start\|>|<\|channel\|>final))",
    regex.S | regex.I,
)
"""A thinking trace as DeepSeek-R1, Qwen3, Kimi and gpt-oss write it."""
OPENED = regex.compile(r"<(?:think|thinking|thought|reasoning)>|◁think▷|<\|channel\|>analysis<\|message\|>", regex.I)
ENDS = ("</", "◁/", "<|")
"""Without one of them no trace ends."""
CLOSED = regex.compile(r"^.*</(?:think|thinking|thought|reasoning)>|^.*◁/think▷", regex.S | regex.I)
FRAME = regex.compile(r"<\|(?:start|channel|message|end|return)\|>(?:assistant|final)?")
REFUSAL = regex.compile(
    r"""\b(?:i|we)(?:\s+(?:am|'m|’m)|['’]m)\s+(?:\w+\s+)?(?:sorry(?=\W*(?:but\W+)?(?:as|for|i|it|no|that|the|there|this|we|$)\b|\W*$|[.!])|afraid|unable|not\s+(?:able|allowed|permitted|comfortable|sure|certain|aware|familiar))\b
    |\b(?:i|we)\s+(?:really\s+|simply\s+|honestly\s+)?(?:cannot|can\s?['’]?t|can\s+not|could\s+not|couldn['’]t|won['’]t|will\s+not|must\s+decline|decline|refuse)\s+
        (?:\w+\s+){0,3}?(?:help|write|create|generate|produce|assist|answer|provide|give|say|tell|do|comply|fulfill|fulfil|discuss|share|determine|confirm|find|access|respond|complete|engage|recall|be\s+(?:sure|certain))\b
    |\b(?:i|we)\s+(?:do\s+not|don['’]?t|didn['’]?t)\s+(?:\w+\s+)?(?:know|answer|provide|give|discuss|help\s+with|share|comment|engage|feel\s+comfortable|have\s+(?:\w+\s+){0,3}?(?:information|access|knowledge|data|details|answer|context|ability|record|idea))\b
    |\bdon['’]?t\s+have\s+the\s+(?:ability|means|tools)\b
    |\bi\s+have\s+no\s+(?:\w+\s+){0,2}?(?:information|idea|knowledge|access|record)\b
    |\bas\s+an?\s+(?:\w+\s+){0,3}?(?:ai|language\s+model|assistant)\b[^.]{0,60}\b(?:cannot|can['’]?t|unable|not\s+able|do\s+not|don['’]?t)\b
    |\b(?:i|we)['’]d\s+(?:rather|prefer)\s+not\b|\bi\s+would\s+(?:rather|prefer)\s+not\b
    |\bcould\s+you\s+(?:please\s+)?(?:provide|clarify|specify|tell\s+me)\b|\bplease\s+(?:provide|clarify|specify)\b
    |^\W*(?:unknown|n/?a|no\s+answer|cannot\s+(?:answer|be\s+determined)|not\s+(?:enough|sufficient)\s+(?:information|context))\W*$
    |\b(?:it\s+is\s+|it['’]s\s+)?(?:not\s+possible|impossible)\s+(?:for\s+me\s+)?to\s+(?:answer|say|determine|know|tell|fulfil\w*|provide|comply)\b
    |\b(?:violat\w+|against|conflicts?\s+with|breach\w*|contrary\s+to|not\s+(?:allowed|permitted)\s+(?:by|under))\s+(?:\w+\s+){0,3}?(?:polic(?:y|ies)|guidelines?|terms|rules|principles|safety)\b
    |\b(?:content|usage|safety|acceptable\s+use)\s+(?:polic(?:y|ies)|filters?|guidelines?)\b|\bguidelines?\s+(?:prevent|prohibit|forbid|do\s+not\s+allow|don['’]t\s+allow)\b
    |\bnot\s+(?:something|a\s+(?:topic|subject|question|request))\s+(?:that\s+)?i\b
    |\b(?:(?:this|that|it|your\s+(?:request|question))\s+(?:is|falls)|['’]s)\s+(?:outside|beyond)\s+(?:of\s+)?(?:what\s+i|my|the\s+scope|our)\b
    |\b(?:request|response|prompt|content|message|answer|output)\s+(?:was|is|has\s+been|cannot\s+be|could\s+not\s+be)\s+(?:\w+\s+)?(?:blocked|filtered|flagged|withheld|removed|declined|refused|rejected|completed|processed|shown|displayed)\b
    |\bi\s+(?:must|have\s+to|will\s+have\s+to|need\s+to)\s+(?:respectfully\s+|politely\s+)?(?:decline|refuse|pass)\b
    |\bi\s+(?:need|require)\s+more\s+(?:information|context|details)\b""",
    regex.I | regex.X,
)
"""A response that declines, in the forms that chat models use. Measured in scripts/bench_reader.py."""
OFFER = regex.compile(
    r"""\?\s*$|^\W*(?:but|however|still)?\W*(?:you|i|we|it|if|please|there|let|perhaps|maybe|as\s+(?:an?|of)|for\s+(?:more|further|the))\b.*\b
        (?:can|could|may|might|would|will|suggest|recommend|check|try|consult|help|visit|provide|assist|contact|refer|depends?|hope|know|sorry|apologi[sz]e|need|happy)\b""",
    regex.I | regex.X | regex.S,
)
"""A sentence that offers help, or asks for more, in place of an answer."""
SENTENCE = regex.compile(r"[^.!?\n]+[.!?]*|\n")
CONTRAST = regex.compile(r"\b(?:but|however|though)\b", regex.I)
ANSWER_LEAST, ANSWER_MOST = 8, 12
"""Words of a clause behind a disclaimer that make it an answer all the same, and of one before it (hand-set)."""
STATES = regex.compile(
    r"\b(?:the|it|its|this|that|my|i)\b[^.]*\b(?:is|are|was|were|be|guess|think|believe)\b\W+\w|\bit['’]s\b", regex.I
)
"""A clause that says what something is."""
MORE = regex.compile(r"\b(?:more|further|else|other|additional|any questions|beyond)\b", regex.I)
REPEATED = 0.8
"""Share of a text that one unit, said again and again, takes at least to be gibberish (hand-set)."""
LONG_ENOUGH = 40
"""Characters from which a text can be called gibberish (hand-set)."""
COMMON_LEAST = 5
"""Words without a capital from which a text can be called of another language (hand-set)."""


def spoken(text: str) -> str | None:
    """The response without its thinking trace; None where it never came to an answer."""
    if "<" not in text and "◁" not in text:
        return text
    answer = THOUGHT.sub("", text) if any(end in text for end in ENDS) else text
    answer = CLOSED.sub("", answer)  # a chat template may have opened the trace in the prompt
    if OPENED.search(answer):
        return None
    if answer == text:
        return text
    return str(FRAME.sub("", answer)).strip()


def why_unread(item: EvalItem, text: str) -> Unread | None:
    """Why a response without the wanted content could not be read; None where it was read."""
    if not any(c.isalnum() or unicodedata.category(c) in ("So", "Sm") for c in text):
        return "empty"
    if is_refusal(text):
        return "refused"
    if is_gibberish(text):
        return "gibberish"
    by_words = item.grader.kind not in ("instructions", "judge") and text.lstrip()[:1] not in ("{", "[")
    return "foreign" if by_words and is_foreign(item, text) else None


@lru_cache(maxsize=1 << 12)
def is_refusal(text: str) -> bool:
    """Does the text decline to answer, and end on that?"""
    sentences = [m.group() for m in SENTENCE.finditer(text) if m.group().strip()]
    declines = [k for k, sentence in enumerate(sentences) if REFUSAL.search(sentence)]
    if not declines:
        return False
    if declines[0] and all(len(s.split()) <= ANSWER_MOST for s in sentences[: declines[0]]) and MORE.search(text):
        return False  # answered first, then declined to say more
    rest = [s for s in sentences[declines[-1] + 1 :] if not OFFER.search(s)]
    clause = CONTRAST.split(sentences[declines[-1]], maxsplit=1)
    rest += [c for c in clause[1:] if not OFFER.search(c) and not OFFER.search(f"i {c}") and not REFUSAL.search(c)]
    return not any(len(s.split()) >= ANSWER_LEAST or STATES.search(s) for s in rest)


def beyond_refusal(text: str) -> str:
    """The text without the sentences that decline, of which what follows in a "but" stays."""
    kept: list[str] = []
    for sentence in (m.group() for m in SENTENCE.finditer(text)):
        clauses = CONTRAST.split(sentence)
        declines = [k for k, clause in enumerate(clauses) if REFUSAL.search(clause)]
        kept += clauses[declines[-1] + 1 :] if declines else [sentence]
    return "".join(kept)


@lru_cache(maxsize=1 << 12)
def is_gibberish(text: str) -> bool:
    """Nothing but one short unit repeated, or characters that no tokenizer should print."""
    if len(text) < LONG_ENOUGH:
        return False
    broken = sum(c == "\ufffd" or unicodedata.category(c) in ("Cn", "Co", "Cs") for c in text)
    if broken > 0.1 * len(text):
        return True
    loop = regex.search(r"(\S.{0,200}?)(?:\s*\1){4,}", text[:2000], regex.S)
    return loop is not None and len(loop.group()) >= REPEATED * min(len(text), 2000)


def is_foreign(item: EvalItem, text: str) -> bool:
    """Is the text in another script or language than every gold answer, so that words cannot be compared?"""
    golds = item.references
    if not golds:
        return False
    scripts = {s for g in golds for s in _scripts(g)}
    said = _scripts(text)
    if scripts and said and not scripts & said:
        return True
    asked, answer = _common_words(item.turns[-1][1]), _common_words(text)
    if min(len(asked), len(answer)) < COMMON_LEAST or (_looks_english(asked) and _looks_english(answer)):
        return False
    one, other = sure_language(" ".join(asked)), sure_language(" ".join(answer))
    return one is not None and other is not None and one != other


def _common_words(text: str) -> list[str]:
    """Words that no name is among: of lists of names langdetect makes any language."""
    return [w for w in regex.findall(r"[\p{L}\p{M}'’]+", text) if not w[0].isupper()]


def _looks_english(words: list[str]) -> bool:
    """A tenth of function words: spares most texts a slow detection."""
    return sum(w in FUNCTION_WORDS for w in words) >= 0.1 * len(words)


_SCRIPTS = "Latin Cyrillic Greek Arabic Hebrew Devanagari Han Hiragana Katakana Hangul Thai"
_SCRIPT = {name: regex.compile(rf"\p{{{name}}}") for name in _SCRIPTS.split()}


@lru_cache(maxsize=1 << 12)
def _scripts(text: str) -> frozenset[str]:
    """Scripts that make up a fifth of the letters or more; kana and Han count as one."""
    letters = sum(c.isalpha() for c in text)
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()}
    found = {name for name, n in counts.items() if letters and n >= 0.2 * letters}
    return frozenset("Han" if name in ("Hiragana", "Katakana") else name for name in found)
