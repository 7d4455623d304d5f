"""Train, evaluate and export a 1-bit network.

Train on handwritten digits that need no download, on the CPU in a minute:
    python trainer_exp.py --arch nin_gc_xnornet --dataset digits
on CIFAR-10 (downloaded into data/), with the network's own recipe:
    python trainer_exp.py --arch nin_gc_xnornet --dataset cifar10
the float network of the same layout, to compare with:
    python trainer_exp.py --arch nin_gc_xnornet --dataset cifar10 --scheme none
any timm network, on pictures of your own in DIR/train/<class>/ and DIR/val/<class>/:
    python trainer_exp.py --arch timm/resnet18 --scheme xnor --dataset imagefolder --data-dir DIR --img-size 64

A scheme with options, one layer left float, one with a scheme of its own:
    python trainer_exp.py --arch nin --scheme dorefa:w_bits=1,a_bits=2 \\
        --override features.block3.conv=none --override features.block5.conv=bwn

A recipe of training/recipes/, which any flag overrides; two stages with a teacher; averaged weights:
    python trainer_exp.py --arch nin_gc_xnornet --dataset cifar10 --recipe sgd-steps --epochs 100
    python trainer_exp.py --arch resnet18_react --dataset cifar10 --recipe two-stage --teacher runs/NAME
    python trainer_exp.py --arch nin_gc_xnornet --dataset cifar10 --ema 0.999 --label-smoothing 0.1

Several GPUs, several machines; a process that dies is started again and goes on from the last checkpoint:
    torchrun --nproc_per_node 8 --max-restarts 3 trainer_exp.py --arch nin_gc_xnornet --checkpoint-every 200
    torchrun --nnodes 2 --nproc_per_node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 --rdzv-id NAME \\
        trainer_exp.py --arch nin_gc_xnornet

See the curves, continue after Ctrl-C or a crash, test the best checkpoint, train and write ONNX:
    tensorboard --logdir runs
    python trainer_exp.py --resume runs/NAME
    python trainer_exp.py --evaluate runs/NAME
    python trainer_exp.py --arch nin_gc_xnornet --dataset digits --export

A run is a directory: best.pt and last.pt (checkpoints), log.jsonl (one line an epoch) and TensorBoard's file.
Exit codes: 0 done, 1 the run had to stop, 2 a flag or file that cannot be used, 130 Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import Any

import training
from training.config import TrainConfig, as_typed, parse_flags
from training.installed import TRAINER, as_called, missing_extra
from training.watch.environment import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        flags = parse_flags(argv, as_called(__doc__))  # before torch is imported, which takes seconds
        with training.joined(flags.get("gpu")) as part:
            code = run(flags, argv)
            if code == 0:
                part()
            return code
    except ValueError as error:
        return fail(error, 2, argv)
    except training.RunStopped as error:
        return fail(error, 1, argv)
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        return fail(sentence, 2, argv)


def run(flags: dict[str, Any], argv: Sequence[str]) -> int:
    """Train, or evaluate; the exit code."""
    try:
        if "evaluate" in flags:
            training.evaluate_checkpoint(flags)
            return 0
        session = training.setup(training.config_from_flags(flags))
    except (ValueError, OSError) as error:  # what the user can put right; from here on it would be ours
        return fail(error, 2, argv)
    except training.RunStopped as error:
        return fail(error, 1, argv)
    except KeyboardInterrupt:
        return fail("interrupted before the first epoch", 130, argv)
    return train(session, argv)


def train(session: "training.Session", argv: Sequence[str]) -> int:
    """Train, and export where asked; the exit code."""
    try:
        training.fit(session)
        if session.config.export is not None and training.is_first():
            training.export_best(session)
    except (training.RunStopped, OSError) as error:
        return fail(error, 1, argv)
    except KeyboardInterrupt:
        if not training.is_first():
            return 130
        kept = f"continue with --resume {session.last}" if session.last.exists() else "no epoch was finished"
        return fail(f"interrupted after {session.epoch} of {session.config.epochs} epochs; {kept}", 130, argv)
    return 0


def fail(message: object, code: int, argv: Sequence[str]) -> int:
    """Say why, in one line, with the flags as ``argv`` spells them; the exit code."""
    print(as_called(f"{TRAINER}: error: {as_typed(str(message), TrainConfig, argv)}"), file=sys.stderr)
    return code


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
