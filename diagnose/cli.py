"""Hydra at the door: overrides in, a typed config out, and whatever ends a verb as one message and an exit code."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from diagnose.children import end_with_parent
from diagnose.config import DiagnoseConfig
from diagnose.errors import NO_ROOM, BadInput, GapwiseError, RunFailed, Terminated
from diagnose.redact import redacted_text
from diagnose.text import first_line, printable

UNWRITABLE = (*NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM)
"""Of an OSError: no room, or not allowed to write."""
STAMP, STAMPED = "%Y-%m-%d_%H-%M-%S", re.compile(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}")
NOTHING_LOST = "nothing before it is lost: the same command with the same out=DIR resumes from here"


T = TypeVar("T")


def register(name: str, schema: type, free: tuple[str, ...] = ()) -> None:
    """Make a schema known to Hydra; dictionaries in `free` (dotted) take new keys without a `+`."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    node = OmegaConf.structured(schema)
    for path in free:
        OmegaConf.set_struct(OmegaConf.select(node, path), False)
    ConfigStore.instance().store(name=name, node=node)


def register_diagnose() -> None:
    """The schema of conf/diagnose.yaml."""
    register("diagnose_schema", DiagnoseConfig, ("evalset.columns", "evalset.grader", "data.columns", "model.train"))


def own_groups(arguments: list[str]) -> list[str]:
    """Somebody's own paths must not inherit the demo's settings or rows: `model.path=DIR` selects `model=own` too."""
    keys = {
        "model": ("model.path=",),
        "evalset": ("evalset.path=",),
        "reader": ("reader.path=", "reader.base_url="),
        "data": ("data.sft=", "data.preferences=", "data.prompts=", "evalset.path=", "evalset="),
    }
    chosen = {group for group in keys for a in arguments if a.startswith(f"{group}=")}
    served = any(a.startswith(("model.base_url=", "model.kind=openai")) for a in arguments)
    own = {g: "own" for g, starts in keys.items() if any(a.startswith(starts) for a in arguments)}
    own |= {"model": "served"} if served else {}
    own |= {"reader": "model"} if "reader" in own else {}
    more = [f"{group}={option}" for group, option in own.items() if group not in chosen]
    # Beside the first override: Hydra's parser takes them in one piece only, before or after its own flags.
    at = next((k for k, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
    return [*arguments[:at], *more, *arguments[at:]]


def value_of(argument: str) -> str:
    """What Hydra makes of the value of an override that is a text: without its quotes and escapes.

    Raises:
        BadInput: Hydra cannot parse it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException
    from omegaconf import OmegaConf

    try:
        value = OverridesParser.create().parse_override(argument).value()
    except OverrideParseException as error:
        raise BadInput(f"{argument}: {first_line(error)}") from None
    return str(OmegaConf.create({"value": value}).value)


def load(cfg: Any, schema: type[T], verb: str) -> T:
    """The typed config with `out` filled in.

    Raises:
        BadInput: `out` together with `-m`, which would let every job write into one directory.
    """
    from datetime import datetime

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_object(cfg)
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    if config.out is not None and sweep:
        raise BadInput("out: one directory cannot hold the jobs of a sweep (-m); leave it out, or run one job")
    if config.out is None:
        stamp = datetime.now().strftime(STAMP)
        if sweep:  # a scheduler that starts a job again must find its directory again
            stamp = Path(hydra.sweep.dir).name if STAMPED.fullmatch(Path(hydra.sweep.dir).name) else stamp
        method = getattr(getattr(config, "method", None), "name", None)
        name = f"{stamp}_{method}_{config.seed}_{hydra.job.num}" if sweep else stamp
        config.out = f"outputs/{verb}/{name}"
    assert isinstance(config, schema)
    _check_known(config)
    return config


def _check_known(config: Any, at: str = "") -> None:
    """`+KEY=VALUE` gives a config keys that nothing reads.

    Raises:
        BadInput: naming the key and those that there are.
    """
    known = [f.name for f in fields(config)]
    if unknown := sorted(set(vars(config)) - set(known)):
        raise BadInput(f"{at}{unknown[0]}: unknown setting; allowed: {', '.join(known)}")
    for name in known:
        if is_dataclass(getattr(config, name)):
            _check_known(getattr(config, name), f"{at}{name}.")


def attempt(work: Callable[[], object]) -> None:
    """Do a verb's work inside Hydra's job.

    In a single run an expected error ends the process here, because Hydra would print its overrides above the message;
    in a sweep it is raised, so that every launcher brings it to the parent process.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        _with_room(work)
    except GapwiseError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(_ended_by(error))


def _with_room(work: Callable[[], object]) -> None:
    try:
        work()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise RunFailed(f"{error.filename or 'a file of this run'}: {error.strerror}; {NOTHING_LOST}") from None


def guarded(main: Callable[[], object]) -> int:
    """Run a Hydra main and turn what ends it into an exit code and one message on stderr.

    Hydra itself exits with 1 on a misspelt key; `HYDRA_FULL_ERROR` makes it raise instead, also under `-m`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _terminated)
    end_with_parent()
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        _check_sweep(sys.argv[1:])
        main()
    except GapwiseError as error:
        return _ended_by(error)
    except (HydraException, OmegaConfBaseException) as error:
        return _ended_by(BadInput(f"config: {_one_sentence(error)}"))
    except BrokenPipeError:
        if not _unread():
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        print("\nstopped", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    return 0


def _check_sweep(arguments: list[str]) -> None:
    """Hydra writes the overrides of a sweep into multirun.yaml, and prints those of a job that fails.

    Raises:
        BadInput: one of them holds a secret.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return
    for argument in arguments:
        if (hidden := redacted_text(argument)) != argument:
            key = argument.partition("=")[0]
            raise BadInput(
                f"{hidden}: a sweep would keep it as typed; put it in the environment: '{key}=${{oc.env:NAME}}'"
            )


def _terminated(*_: object) -> None:
    raise Terminated


def _ended_by(error: GapwiseError) -> int:
    """The exit code of an error whose message has been printed."""
    print(f"\n{printable(redacted_text(str(error)))}", file=sys.stderr)
    return error.exit_code


def _unread() -> bool:
    """Has the reader of our output (`| head`) gone? Then Python must not try to flush into the closed pipe at exit."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _one_sentence(error: Exception) -> str:
    """The override, what is wrong with it and what is allowed, where Hydra takes many lines to say so."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        split = str.rpartition if error.missing_cfg_file.startswith("hydra/") else str.partition
        group, _, option = split(error.missing_cfg_file, "/")
        allowed = ", ".join(error.options or ())
        own = f"; a directory or hub name: {group}.path=" if group in ("model", "evalset") else ""
        return f"{group}={option}: no such file in conf/{group}; allowed: {allowed}{own}"
    if isinstance(error, OverrideParseException):
        expected = "expected KEY=VALUE, with quotes around brackets and braces: \"KEY='VALUE'\""
        wrong = error.message.removeprefix(f"Error parsing override '{error.override}'").strip().splitlines()[0]
        return f"{error.override}: {wrong}; {expected}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return " ".join(line.strip() for line in str(error).splitlines())
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        return f"{cause.full_key}: unknown setting; allowed: {', '.join(f.name for f in fields(cause.object_type))}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{cause.full_key}: unknown key; +{cause.full_key}=VALUE adds one"
    value = "" if cause.value is None else f"={cause.value}"
    return f"{cause.full_key}{value}: {first_line(cause)}"
