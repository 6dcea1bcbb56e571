"""What each class of gap expects the probes to show, and how the reader's error changes what is seen of it.

An item is readable or not: with probability 1 - sensitivity the reader does not know the way in which this model says
the right content of this item, in whichever probe. Of such an item right content looks wrong. A wrong answer is taken
for right content with probability `invented`, each time anew. A strict pass is beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln, logsumexp

from diagnose.config import RuleConfig
from diagnose.probes.table import COUNT, LEVELS, WINS, Probe
from diagnose.records import CLASSES, KNOWLEDGE
from diagnose.verdict.evidence import Evidence

Array = np.ndarray
READ_WINS = (Probe.FREE, Probe.ORACLE_CONTEXT)
"""Of the probes with one success or failure, those that the reader reads; log-probabilities rank the others."""
UNREADABLE, READABLE = 0, 1
ACCEPTED = [CLASSES.index("none"), CLASSES.index("preference")]
"""Classes whose answers pass as they are; of those whose right answer the reader cannot see, none does, so that they
are reported as FORMAT."""
SUPPRESSED = CLASSES.index("format_suppressed")
LOST = [SUPPRESSED, *(CLASSES.index(kind) for kind in KNOWLEDGE)]
"""What content that the demand costs may look like wherever the demand is made."""
LEAST = 1e-9


@dataclass(frozen=True)
class Misread:
    """The reader's error as one sweep holds it; all [items]."""

    sensitivity: Array
    invented: Array
    told_apart: Array
    """How often a wrong plain answer is recognised as another answer of the same type."""


@dataclass(frozen=True)
class Reader:
    """What is known of the reader: draws of its error, and what people say of plain answers."""

    group: Array
    """[items]: column of the draws; -1 where the reading is right by definition."""
    sensitivity: Array
    """[draws, groups], as the two below."""
    invented: Array
    told_apart: Array
    apart: Array
    """[items]: the plain answer was recognised as another answer of the same type."""
    labelled: Array
    """[items]: a person said whether the plain answer has the content."""
    missed: Array
    """[items]: that it has, and the reader did not see it."""

    def held(self, draw: int) -> Misread:
        """One draw, for every item."""
        row = draw % len(self.sensitivity)
        return self._of_items(self.sensitivity[row], self.invented[row], self.told_apart[row])

    def mean(self) -> Misread:
        """The means of the draws, for every item."""
        return self._of_items(self.sensitivity.mean(0), self.invented.mean(0), self.told_apart.mean(0))

    def _of_items(self, *values: Array) -> Misread:
        """[groups] → [items]; -1, the last column, is of the items that are read without error."""
        s, f, apart = (np.append(v, sure)[self.group] for v, sure in zip(values, (1.0, 0.0, 0.0), strict=True))
        return Misread(s, f, apart)


def flawless(n: int) -> Reader:
    """The reader of n items that makes no error."""
    never, none = np.zeros(n, bool), np.zeros((1, 0))
    return Reader(np.full(n, -1), none, none, none, never, never, never)


def template(rule: RuleConfig, probe: Probe) -> Array:
    """[classes] or [classes, 2] prior means."""
    return np.array([rule.templates[probe][name] for name in CLASSES], float)


def floored(g: Array, mu: Array) -> Array:
    """theta = g + (1 - g) mu, as [items, classes]."""
    theta: Array = g[:, None] + (1 - g[:, None]) * mu[None, :]
    return theta.clip(1e-6, 1 - 1e-6)


def format_floor(seen: Evidence, probe: Probe) -> Array:
    """The control of `few_shot` is about format: examples in the base's own format make an answer strict this often."""
    return seen.format_floors.get(probe, np.zeros(len(seen.weights)))


def loglik(seen: Evidence, rule: RuleConfig, reader: Reader, error: Misread, theta: dict[Probe, Array]) -> Array:
    """[2, items, classes]: log-likelihood of all that was seen, of an item that is not readable and of one that is.

    Every probe but FREE makes the demand, so that what it costs may be gone there in the way of any missing knowledge.
    """
    common = sum((wins_loglik(seen, p, theta[p]) for p in WINS if p not in READ_WINS), np.zeros(1))
    out = []
    for readable in (UNREADABLE, READABLE):
        ll = common + sum(levels_loglik(seen, p, theta[p], reader, error, readable) for p in LEVELS)
        ll = ll + sum(counts_loglik(seen, p, rule, error, readable) for p in COUNT)
        ll = ll + read_wins_loglik(seen, Probe.ORACLE_CONTEXT, theta[Probe.ORACLE_CONTEXT], error, readable)
        ll[:, SUPPRESSED] = logsumexp(ll[:, LOST], 1) - np.log(len(LOST))
        out.append(ll + read_wins_loglik(seen, Probe.FREE, theta[Probe.FREE], error, readable))
    share = error.sensitivity[:, None].clip(LEAST, 1)
    out[UNREADABLE] = out[UNREADABLE] + np.log(np.maximum(1 - share, 1e-300))
    out[READABLE] = out[READABLE] + np.where(reader.missed[:, None], np.log(1e-300), np.log(share))
    return np.array(out)


def levels_loglik(seen: Evidence, probe: Probe, mu: Array, reader: Reader, error: Misread, readable: int) -> Array:
    """One three-level outcome: fail, lenient only, strict; draws of one item are averaged, not multiplied."""
    lenient, strict = seen.levels[probe].T
    up = floored(seen.floors[probe], mu[:, 0])
    top = floored(format_floor(seen, probe), mu[:, 1])
    f = error.invented[:, None]
    there, absent = up * readable, (1 - up) * f
    only, fail = there * (1 - top) + absent, up * (1 - readable) + (1 - up) * (1 - f)
    passed = there * top
    if probe is Probe.PLAIN:
        apart = error.told_apart[:, None]
        known = np.where(reader.group[:, None] < 0, 1.0, np.where(reader.apart[:, None], apart, 1 - apart))
        fail = up * (1 - readable) * ~reader.apart[:, None] + (1 - up) * (1 - f) * known
        said = reader.labelled[:, None]
        passed, only, fail = (
            np.where(said, exact, read) for exact, read in ((up * top, passed), (up * (1 - top), only), (1 - up, fail))
        )
    logs = (np.log(np.maximum(p, LEAST)) for p in (fail, only, passed))
    shares = ((1 - lenient)[:, None], (lenient - strict)[:, None], strict[:, None])
    return np.nan_to_num(sum(share * log for share, log in zip(shares, logs, strict=True)))


def counts_loglik(seen: Evidence, probe: Probe, rule: RuleConfig, error: Misread, readable: int) -> Array:
    """Beta-binomial: items of one class share a mean, not a difficulty."""
    x, n = seen.counts[probe].T
    mean, size = template(rule, probe).T
    m = read_as_right(floored(seen.floors[probe], mean), error, readable)
    a, b = m * size, (1 - m) * size
    x, n = x[:, None], n[:, None]
    choose = gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)
    ll: Array = choose + betaln(x + a, n - x + b) - betaln(a, b)
    return np.where(n > 0, ll, 0.0)


def read_wins_loglik(seen: Evidence, probe: Probe, mu: Array, error: Misread, readable: int) -> Array:
    """One success or failure, as the reader sees it."""
    y = seen.wins[probe][:, None]
    theta = read_as_right(floored(seen.floors[probe], mu), error, readable)
    return np.nan_to_num(y * np.log(theta) + (1 - y) * np.log(1 - theta))


def read_as_right(theta: Array, error: Misread, readable: int) -> Array:
    """Probability that an answer is read as right, where it is so with probability theta."""
    found: Array = theta * readable + (1 - theta) * error.invented[:, None]
    return found.clip(1e-6, 1 - 1e-6)


def wins_loglik(seen: Evidence, probe: Probe, mu: Array) -> Array:
    """One success or failure that no reader reads."""
    y = seen.wins[probe][:, None]
    if probe is Probe.PREFERENCE_JUDGED:
        # The reference wins against every class at the rate of self against self; PREFERENCE is the excess over it.
        theta = np.repeat(seen.floors[probe][:, None], len(CLASSES), 1).clip(1e-3, 1 - 1e-3)
        theta[:, CLASSES.index("preference")] = floored(seen.floors[probe], mu)[:, 0]
    else:
        theta = floored(seen.floors[probe], mu)
    return np.nan_to_num(y * np.log(theta) + (1 - y) * np.log(1 - theta))
