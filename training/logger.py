"""One place that an epoch is reported to: the console, the log file and TensorBoard."""

import dataclasses

import quantize

from .checkpoint import BEST, LAST
from .console import complexity_lines, epoch_lines, say
from .environment import describe
from .metrics import Metrics
from .runlog import RunLog, read_log
from .session import Session
from .tensorboard import TensorBoardLog


class RunLogger:
    """Reports on a session's run; a context manager that closes the files."""

    def __init__(self, session: Session):
        self.session = session
        cost = cost_of(session)
        self.log = RunLog(session.run_dir, session.epoch)
        self.curves = TensorBoardLog(session.run_dir, session.config, session.model, session.epoch)
        totals = ("macs", "binary_macs", "parameters", "float_bytes", "packed_bytes")
        self.log.write(
            "run",
            epochs_done=session.epoch,
            config=dataclasses.asdict(session.config),
            scheme=session.config.effective_scheme,
            environment=describe(session.device),
            cost={name: getattr(cost, name) for name in totals},
            data={"train": session.data.train.count, "test": session.data.test.count, "classes": session.data.classes},
        )
        say(*complexity_lines(cost), f"==> {run_line(session)}")

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.curves.close()

    def epoch(self, epoch: int, lr: float, train: Metrics, test: Metrics) -> None:
        """Report ``epoch`` epochs done, the last one at learning rate ``lr``."""
        best = self.session.best_acc1
        self.log.write("epoch", epoch=epoch, lr=lr, train=dataclasses.asdict(train), test=dataclasses.asdict(test))
        self.curves.epoch(epoch, lr, train, test, best)
        say(*epoch_lines(epoch, self.session.config.epochs, lr, train, test, best))

    def finish(self) -> None:
        """Report the end of the run."""
        epochs = [entry for entry in read_log(self.session.run_dir) if entry["kind"] == "epoch"]
        best = max(epochs, key=lambda entry: entry["test"]["top1"])  # the first of equals
        checkpoint = str(self.session.run_dir / BEST)
        self.log.write(
            "result",
            best_acc1=self.session.best_acc1,
            best_epoch=best["epoch"],
            last_acc1=epochs[-1]["test"]["top1"],
            seconds=sum(entry["train"]["seconds"] + entry["test"]["seconds"] for entry in epochs),
            checkpoint=checkpoint,
        )
        self.curves.finish()
        say(f"best_acc1: {self.session.best_acc1:.2f}", f"checkpoint_path: {checkpoint}")


def cost_of(session: Session) -> quantize.Summary:
    """What one image costs."""
    images, _ = next(iter(session.data.test))
    return quantize.summary(session.model, images[:1])


def run_line(session: Session) -> str:
    """What is about to happen, in one line."""
    config, data = session.config, session.data
    start = f"continuing after epoch {session.epoch}" if session.epoch else "training"
    return (
        f"{start}: {config.arch}, scheme {config.effective_scheme or 'none (float)'}, {config.dataset} "
        f"({data.train.count:,} + {data.test.count:,} images) on {session.device}, to {session.run_dir / LAST}"
    )
