"""How a command can fail; each error carries its exit code."""

from __future__ import annotations

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of an OSError: the disk is full, or a limit on it is reached."""


class GapwiseError(Exception):
    """Something a user can act on: one message, no traceback."""

    exit_code = 1


class RunFailed(GapwiseError):
    """The work itself failed, for instance a training worker that died."""


class BadInput(GapwiseError):
    """The configuration or a file is wrong: where, what was found, what is allowed."""

    exit_code = 2


class Blocked(GapwiseError):
    """A gate or a preflight check stops the command."""

    exit_code = 3


class Inconclusive(GapwiseError):
    """The comparison does not settle the question."""

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """SIGTERM: as with Ctrl-C, what was begun is ended in order."""

    signal = "SIGTERM"
