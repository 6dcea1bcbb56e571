"""Train what a diagnosis recommends, or a method of your choice, with LoRA through TRL.

python train.py diagnosis=OUT method=recommended
python train.py diagnosis=OUT method=sft data.sft=ROWS.jsonl
python train.py -m diagnosis=OUT method=sft,dpo,rlhf seed=0,1,2 'data.slices=[SLICE,GUARD]'   # a sweep
python train.py diagnosis=OUT method=dpo method.args.beta=0.2 lora.r=32
"""

import sys

import hydra
from omegaconf import DictConfig

from diagnose.cli import attempt, guarded, load
from diagnose.errors import BadInput
from train.config import TrainConfig, check_sweep, check_train, register_train, resolve_recommended

register_train()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose, check, and only then import what is slow."""
    attempt(lambda: start(load(cfg, TrainConfig, "train")))


def start(config: TrainConfig) -> None:
    """Check the config, then do the work."""
    check_train(config)
    from train.run import run

    run(config)


if __name__ == "__main__":
    try:
        check_sweep(sys.argv[1:])
        sys.argv[1:] = resolve_recommended(sys.argv[1:])
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(guarded(main))
