"""The flags of trainer_exp.py."""

import argparse
from typing import NoReturn

import models
import quantize

from ..data import AUGMENTATIONS, DATASETS, PRESETS
from ..execution import PRECISIONS
from ..optimizer import LR_SCHEDULES, OPTIMIZERS
from .defaults import ARCH, DATASET, FLOAT_SCHEMES, list_recipes


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of argparse's page of usage."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


class _Override(argparse.Action):
    """Collect ``--override PATTERN=SCHEME`` into a dict; "none" means float."""

    def __call__(self, parser, namespace, value, option_string=None):
        pattern, equals, scheme = value.partition("=")
        if not (pattern and equals and scheme):
            parser.error(f"argument --override: {value!r} is not PATTERN=SCHEME or PATTERN=none")
        overrides = getattr(namespace, self.dest, {})
        setattr(namespace, self.dest, {**overrides, pattern: None if scheme in FLOAT_SCHEMES else scheme})


class _Evaluate(argparse.Action):
    """``--valuate`` without a checkpoint is how older trainers were asked for a test after each epoch."""

    def __call__(self, parser, namespace, value, option_string=None):
        if value or option_string != "--valuate":
            setattr(namespace, self.dest, value)


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The flags. One that is not given leaves nothing in the namespace, so that defaults can follow the network."""
    parser = _Parser(
        prog="trainer_exp.py",
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_network_flags(parser.add_argument_group("network"))
    _add_data_flags(parser.add_argument_group("data"))
    _add_training_flags(parser.add_argument_group("training (defaults: training/defaults.py)"))
    _add_recipe_flags(parser.add_argument_group("loss, stages, averages"))
    _add_speed_flags(parser.add_argument_group("speed and memory"))
    _add_run_flags(parser.add_argument_group("run"))
    return parser


def _add_network_flags(group) -> None:
    names = f"{', '.join(models.list_models())}, <arch>_<scheme>, timm/<name>"
    group.add_argument("--arch", help=f"{names}; default: {ARCH}")
    group.add_argument(
        "--scheme", help=f"{', '.join(quantize.list_schemes())}, with options as in xnor:center=false; none"
    )
    group.add_argument("--keep-float", nargs="*", metavar="LAYER", help="default: first last, mostly")
    group.add_argument(
        "--override", dest="overrides", action=_Override, metavar="PATTERN=SCHEME", help="or PATTERN=none"
    )
    group.add_argument(
        "--pretrained", nargs="?", const="timm", metavar="CHECKPOINT", help="weights to start from; alone: timm's own"
    )


def _add_data_flags(group) -> None:
    group.add_argument("--dataset", help=f"{', '.join(DATASETS)}; default: {DATASET}")
    group.add_argument("--data-dir", metavar="DIR", help="default: data")
    group.add_argument("--img-size", type=int, metavar="PIXELS", help="default: the network's own")
    group.add_argument("--normalize", metavar="PRESET", help=", ".join(PRESETS))
    group.add_argument("--mean", type=float, nargs="+", help="instead of a preset, for pixels in 0 to 1")
    group.add_argument("--std", type=float, nargs="+")
    group.add_argument("--augment", help=", ".join(AUGMENTATIONS))
    group.add_argument("--skip-corrupt", action="store_true", help="leave pictures out that cannot be read")
    group.add_argument("-j", "--workers", type=int, help="processes that decode a set too large for memory")


def epochs_or_share(text: str) -> int | float:
    """A number of epochs, or a share of them above 0 and below 1."""
    try:
        value = int(text) if text.isdigit() else float(text)
    except ValueError:
        value = -1
    if isinstance(value, float) and not 0 < value < 1 or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of epochs nor a share between 0 and 1")
    return value


def _add_training_flags(group) -> None:
    group.add_argument("--recipe", metavar="NAME", help=f"{', '.join(list_recipes())} (training/recipes/)")
    group.add_argument("--epochs", type=int)
    group.add_argument("-b", "--batch-size", type=int, help="of each process; all together: x processes x --accumulate")
    group.add_argument("--optimizer", help=", ".join(OPTIMIZERS))
    group.add_argument("--lr", type=float)
    group.add_argument("--momentum", type=float, help="of sgd and rmsprop; default: 0.9")
    group.add_argument("--weight-decay", "--wd", type=float, help="of weights; scales, thresholds and norms have none")
    group.add_argument("--clip-weights", type=float, metavar="LIMIT", help="of latent weights; 0: none")
    group.add_argument("--lr-schedule", help=", ".join(LR_SCHEDULES))
    group.add_argument(
        "--milestones",
        "--schedule",
        type=epochs_or_share,
        nargs="+",
        metavar="EPOCH",
        help="of step, which it implies; below 1: a share of the epochs",
    )
    group.add_argument("--gamma", type=float, help="factor of lr at a milestone; of exponential: over all epochs")
    group.add_argument("--warmup-epochs", type=int, metavar="N", help="the learning rate rises before the schedule")
    group.add_argument("--seed", type=int, help="default: 0")
    group.add_argument("--deterministic", action="store_true", help="bit-exact on a GPU too, at some cost")


def _add_recipe_flags(group) -> None:
    from ..objective import LOSSES  # which imports this package

    group.add_argument("--loss", help=", ".join(LOSSES))
    group.add_argument("--label-smoothing", type=float, metavar="SHARE")
    group.add_argument("--mixup", type=float, metavar="ALPHA", help="of the Beta distribution; 0: none")
    group.add_argument("--random-erasing", type=float, metavar="P", help="probability of an image")
    group.add_argument("--dropout", type=float, metavar="SHARE", help="of dropout layers; default: the network's own")
    group.add_argument(
        "--stage1-epochs",
        type=epochs_or_share,
        metavar="N",
        help="with float weights, first; below 1: a share of all",
    )
    group.add_argument("--teacher", metavar="ARCH:CHECKPOINT", help="a trained network to learn from, or CHECKPOINT")
    group.add_argument("--distill-weight", type=float, metavar="SHARE", help="of the teacher in the loss; default: 1")
    group.add_argument("--ema", type=float, metavar="DECAY", help="evaluate an average of the weights; 0: none")


def _add_speed_flags(group) -> None:
    group.add_argument("--amp", metavar="|".join(PRECISIONS), help="the network computes in 16 bits where that is safe")
    group.add_argument("--compile", action="store_true", help="with torch.compile; the first steps take long")
    group.add_argument("--channels-last", action="store_true", help="images and filters lie in memory as NHWC")
    group.add_argument(
        "--accumulate", type=int, metavar="STEPS", help="batches to an update of the weights; default: 1"
    )


def _add_run_flags(group) -> None:
    group.add_argument("--gpu", help="index of the CUDA device, mps, or cpu; default: a GPU where there is one")
    group.add_argument("--log-path", metavar="DIR", help="default: runs/<arch>-<dataset>-<time>")
    group.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="also within an epoch; 0: only at its end",
    )
    group.add_argument("--resume", metavar="CHECKPOINT", help="a checkpoint or run directory to continue exactly")
    group.add_argument(
        "--evaluate",
        "--valuate",
        nargs="?",
        const="",
        action=_Evaluate,
        metavar="CHECKPOINT",
        help="test a checkpoint, that of --resume or --pretrained where none is named, and train nothing; "
        "--valuate alone: train, and test after each epoch, as always",
    )
    group.add_argument("--export", nargs="?", const="", metavar="FILE", help="ONNX of the best checkpoint; model.onnx")
    group.add_argument("--export-format", metavar="NAME", help="packed, standard, int8, qonnx; default: packed")
