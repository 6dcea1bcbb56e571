"""Did it help? Re-ask base and runs on the same items and compare them pair by pair.

python eval.py diagnosis=OUT 'runs=outputs/train/*'
python eval.py diagnosis=OUT runs=RUN gate=true gate.critical=[billing]    # exit code by the verdict
"""

import sys

import hydra
from omegaconf import DictConfig

from diagnose.cli import attempt, guarded, load
from eval.config import EvalConfig, check_eval, plain_overrides, register_eval

register_eval()


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(cfg: DictConfig) -> None:
    """Compose, check, and only then import what is slow."""
    attempt(lambda: start(load(cfg, EvalConfig, "eval")))


def start(config: EvalConfig) -> None:
    """Check the config, then do the work."""
    check_eval(config)
    from eval.run import run

    run(config)


if __name__ == "__main__":
    sys.argv[1:] = plain_overrides(sys.argv[1:])
    sys.exit(guarded(main))
