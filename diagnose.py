"""Which gap does a model have on an eval set, how sure is that, and what to do about it.

python diagnose.py                                        # demo: embedded model and eval set, CPU, offline
python diagnose.py model.path=DIR_OR_HUB_NAME evalset.path=F.jsonl
python diagnose.py model=qwen3_0_6b evalset.path=F.jsonl  # ready settings for a real model, see conf/model/
python diagnose.py … launch=true                          # then train what was recommended
"""

import sys

import hydra
from omegaconf import DictConfig

from diagnose.cli import attempt, guarded, load, own_groups, register_diagnose
from diagnose.config import DiagnoseConfig, check_diagnose

register_diagnose()


@hydra.main(version_base="1.3", config_path="conf", config_name="diagnose")
def main(cfg: DictConfig) -> None:
    """Compose, check, and only then import what is slow."""
    attempt(lambda: start(load(cfg, DiagnoseConfig, "diagnose")))


def start(config: DiagnoseConfig) -> None:
    """Check the config, then do the work."""
    check_diagnose(config)
    from diagnose.run import run

    run(config)


if __name__ == "__main__":
    sys.argv[1:] = own_groups(sys.argv[1:])
    sys.exit(guarded(main))
