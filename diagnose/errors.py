"""How a verb can end other than well; each error carries the exit code of CONTRACTS."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class GapwiseError(Exception):
    """Something a user can act on: one message, no traceback."""

    exit_code = 1


class RunFailed(GapwiseError):
    """The work itself failed, for instance a training worker that died."""


class BadInput(GapwiseError):
    """The configuration or a file is wrong: where, what was found, what is allowed."""

    exit_code = 2


class Blocked(GapwiseError):
    """A gate or a preflight check refuses to go on."""

    exit_code = 3


class Inconclusive(GapwiseError):
    """The comparison cannot tell."""

    exit_code = 4


_ended: list[GapwiseError] = []


def attempt(work: Callable[[], object]) -> None:
    """Do a verb's work inside Hydra's job.

    In a single run an expected error waits here for `guarded`, because Hydra would print its overrides above the
    message; in a sweep it is raised, so that every launcher brings it to the parent process.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        work()
    except GapwiseError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _ended.append(error)


def guarded(main: Callable[[], object]) -> int:
    """Run a Hydra main and turn what ends it into an exit code and one message on stderr.

    Hydra itself exits with 1 on a misspelt key; `HYDRA_FULL_ERROR` makes it raise instead, also under `-m`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        main()
        if _ended:
            raise _ended.pop()
    except GapwiseError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    except (HydraException, OmegaConfBaseException) as error:
        print(f"\nconfig: {_whole_message(error)}", file=sys.stderr)
        return BadInput.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command with the same out=DIR goes on from here", file=sys.stderr)
        return 130
    return 0


def _whole_message(error: BaseException) -> str:
    """The message with its cause, where Hydra wraps the telling one."""
    cause = error.__cause__
    text = str(error).strip()
    return text if cause is None or str(cause) in text else f"{text}\n{cause}"
