"""Find and classify objects that move in front of a moving camera.

Boxes around what moves and the class of each, drawn into DIR/video.avi and listed in DIR/detections.jsonl:
    python tools/moving_objects --video street.mp4 --save DIR
with the classes of a network of the trainer, an ONNX file or one of torchvision's instead of the 1-bit network that
comes with the package, or boxes alone:
    python tools/moving_objects --video 0 --classifier runs/NAME --show
    python tools/moving_objects --video street.mp4 --classifier model.onnx --dataset-classes cifar10 --label car
    python tools/moving_objects --video street.mp4 --classifier torchvision:mobilenet_v3_small
    python tools/moving_objects --video street.mp4 --classifier none
a directory of pictures, or one of masks and pictures (mask, picture, mask, ... in sorted order):
    python tools/moving_objects --video frames/
    python tools/moving_objects --video pairs/ --precomputed-masks
IoU, precision and recall against known boxes, of a run or of one that was saved:
    python tools/moving_objects --video street.mp4 --ground-truth gt.txt
    python tools/moving_objects --detections DIR/detections.jsonl --ground-truth gt.txt

Exit codes: 0 done, 1 the source broke off, 2 a flag or file that cannot be used, 130 Ctrl-C. What was found
until then is written in every case.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import cv2

from tools.command_line import positive
from training.installed import as_called

from .box_scores import GROUPS, Boxes, Scores, evaluate, label_accuracy, read_boxes
from .classify import CLASSES, NONE, SHIPPED, TORCHVISION, ZOO, Classifier, load_classifier
from .output import DETECTIONS, Recorder, check_windows
from .pipeline import Pipeline, format_summary, summarize
from .sources import SourceLost, open_source

PROGRAM = "moving_objects"
WARM_UP = 30  # frames that the background needs, left out of scores


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of argparse's page of usage."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = _Parser(
        prog=PROGRAM,
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", metavar="FILE|CAMERA|DIR", help="a video, a camera's number, or a directory")
    source.add_argument("--detections", type=Path, metavar="FILE", help=f"a saved {DETECTIONS}: scores only")
    parser.add_argument("--precomputed-masks", action="store_true", help="the directory holds mask, picture, mask, ...")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="stop after so many frames")
    parser.add_argument("--threads", type=positive, metavar="N", help="of OpenCV and of the classifier")
    _add_class_flags(parser.add_argument_group("classes"))
    _add_output_flags(parser.add_argument_group("output"))
    _add_score_flags(parser.add_argument_group("scores"))
    return parser


def _add_class_flags(group) -> None:
    group.add_argument(
        "--classifier",
        metavar="NAME",
        help=f"a checkpoint, a run directory, a file.onnx, {TORCHVISION}NAME, or {ZOO}NAME of a CIFAR-10 network that "
        f"comes with the package; {NONE}: boxes without classes; default: {SHIPPED}",
    )
    group.add_argument("--dataset-classes", choices=sorted(CLASSES), help="instead of the classes in the file")
    group.add_argument("--label", metavar="CLASS", help="score every box against this class: its name or number")
    group.add_argument(
        "--group",
        dest="groups",
        action="append",
        type=lambda names: tuple(names.split(",")),
        metavar="NAME,NAME",
        help=f"classes that count as one; default: {' '.join(','.join(g) for g in GROUPS)}",
    )


def _add_output_flags(group) -> None:
    group.add_argument("--save", type=Path, metavar="DIR", help="video, boxes and summary")
    group.add_argument(
        "--pictures", type=positive, nargs="+", default=(), metavar="FRAME", help="save these frames too"
    )
    group.add_argument("--show", action="store_true", help="in a window; q ends")


def _add_score_flags(group) -> None:
    group.add_argument("--ground-truth", type=Path, metavar="FILE", help="boxes: MOT (.txt), JSON or JSON lines")
    group.add_argument("--iou", type=float, default=0.5, help="overlap from which a box is found; default: %(default)s")
    group.add_argument("--warm-up", type=int, default=WARM_UP, metavar="FRAMES", help="unscored; default: %(default)s")


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together, or that this installation cannot serve."""
    if flags.detections is not None and flags.ground_truth is None:
        raise ValueError("--detections needs --ground-truth to be scored against")
    if flags.pictures and flags.save is None:
        raise ValueError("--pictures needs --save DIR to put them in")
    if flags.dataset_classes and flags.classifier is None:
        raise ValueError("--dataset-classes needs a --classifier")
    if flags.label and flags.classifier == NONE:
        raise ValueError(f"--label needs a classifier; --classifier is {NONE}")
    if flags.detections is not None and (flags.classifier or flags.save or flags.show):
        raise ValueError("--detections are scored as they are; --classifier, --save and --show need a --video")
    if flags.show:
        check_windows()
    if not 0 < flags.iou <= 1:
        raise ValueError(f"--iou is {flags.iou}; it must be above 0 and at most 1")


def resolve_label(label: str, classifier: Classifier, groups: Sequence[Sequence[str]]) -> str:
    """The class that ``--label`` means: a name, a number, or a word of a group that has one of the classes.

    Raises ValueError for none of these.
    """
    from quantize.words import did_you_mean

    classes = classifier.classes
    grouped = {name for group in groups if set(group) & set(classes) for name in group}
    if label in classes or label in grouped:
        return label
    if label.isdecimal() and int(label) < len(classes):
        return classes[int(label)]
    raise ValueError(f"--label {label!r} is no class of the classifier: {did_you_mean(label, {*classes, *grouped})}")


def run(flags: argparse.Namespace) -> int:
    """Process a video and print what it gave; the exit code.

    Raises ValueError or OSError, in one sentence, for what cannot be used.
    """
    groups = flags.groups or GROUPS
    truth = None if flags.ground_truth is None else read_boxes(flags.ground_truth)
    source = open_source(flags.video, flags.precomputed_masks)
    name = flags.classifier or SHIPPED
    classifier = None if name == NONE else load_classifier(name, flags.dataset_classes, flags.threads)
    label = flags.label and resolve_label(flags.label, classifier, groups)
    recorder = flags.save and Recorder(flags.save, source.fps, flags.pictures)
    pipeline = Pipeline(source, classifier, recorder, flags.show)
    try:
        pipeline.run(flags.max_frames)
    finally:
        summary = summarize(pipeline.results, source.bad_frames)
        if label:
            summary["label"] = {"class": label, "accuracy": label_accuracy(pipeline.results.boxes, label, groups)}
        if truth is not None:
            summary["scores"] = score(flags, pipeline.results.boxes, truth, pipeline.results.boxes).as_dict()
        if recorder:
            recorder.close(summary)
        print(format_summary(summary))
    return 0


def score(flags: argparse.Namespace, boxes: Boxes, truth: Boxes, frames: Iterable[int]) -> Scores:
    """Those of ``frames`` after the warm-up."""
    counted = [frame for frame in frames if frame > flags.warm_up]
    return evaluate(boxes, truth, counted, flags.iou, flags.groups or GROUPS)


def score_saved(flags: argparse.Namespace) -> int:
    """Score the boxes of an earlier run; the exit code."""
    boxes, truth = read_boxes(flags.detections), read_boxes(flags.ground_truth)
    print(score(flags, boxes, truth, sorted({*boxes, *truth})))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    flags = make_parser().parse_args(argv)
    try:
        check_flags(flags)
        if flags.threads is not None:
            cv2.setNumThreads(flags.threads)
        return run(flags) if flags.detections is None else score_saved(flags)
    except (ValueError, OSError) as error:
        return fail(error, 2)
    except SourceLost as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def fail(message: object, code: int) -> int:
    """Say why, in one line; the exit code."""
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return code
