"""One place that an epoch is reported to: the console, the log file and TensorBoard."""

import contextlib
import dataclasses

import quantize

from ..checkpoint import BEST
from ..run import Session
from ..schedule import Stage
from .console import EpochReport, complexity_lines, epoch_lines, say, skipped_lines
from .environment import describe, peak_memory
from .health import HealthWatch, measure_health
from .metrics import Metrics
from .runlog import RunLog, read_log
from .tensorboard import TensorBoardLog


class RunLogger:
    """Reports on a session's run; a context manager that closes the files."""

    def __init__(self, session: Session):
        self.session = session
        self.images, _ = next(iter(session.data.test))  # the batch that the layers' health is measured on
        self.skipped: set[str] = set()
        self.watch = HealthWatch(len(session.flips.layers), unchanged_layers(session))
        cost = quantize.summary(session.model, self.images[:1])
        self.log = RunLog(session.run_dir, session.epoch)
        self.curves = TensorBoardLog(session.run_dir, session.config, session.flips.layers, session.epoch)
        totals = ("macs", "binary_macs", "parameters", "float_bytes", "packed_bytes")
        self.log.write(
            "run",
            epochs_done=session.epoch,
            config=dataclasses.asdict(session.config),
            scheme=session.config.effective_scheme,
            environment=describe(session.device),
            cost={name: getattr(cost, name) for name in totals},
            processes=session.data.train.share.processes,
            effective_batch=session.data.train.whole_batch,
            data={"train": session.data.train.count, "test": session.data.test.count, "classes": session.data.classes},
        )
        say(*complexity_lines(cost), f"==> {run_line(session)}", *batch_lines(session))

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with contextlib.suppress(OSError) if error is not None else contextlib.nullcontext():
            self.curves.close()  # which writes what is left: on a full disk that fails again

    def epoch(self, stage: Stage, lr: float, train: Metrics, test: Metrics, skipped: set[str]) -> None:
        """Report the epoch that the session has done, in ``stage`` at learning rate ``lr``, without ``skipped``."""
        epoch, best = self.session.epoch, self.session.best_acc1
        self.session.model.eval()  # with --ema it was another model that was tested
        flips, health = self.session.flips.update(), measure_health(self.session.model, self.images)
        warnings = self.watch.epoch(health, flips)
        report = EpochReport(epoch, lr, stage.float_weights, train, test, best, flips, health)
        plain = {name: metrics.log_entry() for name, metrics in (("train", train), ("test", test))}
        state = {"float_weights": stage.float_weights, "unchanged": self.watch.unchanged}
        if skipped - self.skipped:
            state["skipped"] = sorted(skipped - self.skipped)
        self.log.write("epoch", epoch=epoch, lr=lr, **plain, **state, peak_memory=peak_memory(self.session.device))
        self.curves.epoch(report)
        say(*epoch_lines(report, self.session.config.epochs), *warnings, *skipped_lines(skipped - self.skipped))
        self.skipped |= skipped

    def finish(self) -> None:
        """Report the end of the run."""
        epochs = [entry for entry in read_log(self.session.run_dir) if entry["kind"] == "epoch"]
        whole = [entry for entry in epochs if not entry.get("float_weights")]
        best = max(whole, key=lambda entry: entry["test"]["top1"])  # the first of equals
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
        say(*self.watch.result(), f"best_acc1: {self.session.best_acc1:.2f}", f"checkpoint_path: {checkpoint}")


class SilentLogger:
    """What a process that is not the first has instead."""

    def __enter__(self) -> "SilentLogger":
        return self

    def __exit__(self, kind, error, traceback) -> None: ...

    def epoch(self, *results) -> None: ...

    def finish(self) -> None: ...


def unchanged_layers(session: Session) -> list[str] | None:
    """Where a run is continued: the binary layers none of whose weights had changed its sign, as its log has them."""
    done = [entry for entry in read_log(session.run_dir) if entry.get("epoch") == session.epoch]
    return done[0].get("unchanged", []) if done else [] if session.epoch else None


def run_line(session: Session) -> str:
    """What is about to happen, in one line."""
    config, data = session.config, session.data
    start = f"continuing after epoch {session.epoch}" if session.epoch else "training"
    if session.partial is not None:
        start = f"continuing in epoch {session.epoch + 1} after {session.partial['images']:,} images"
    return (
        f"{start}: {config.arch}, scheme {config.effective_scheme or 'none (float)'}, {config.dataset} "
        f"({data.train.count:,} + {data.test.count:,} images) on {session.device}, to {session.last}"
    )


def batch_lines(session: Session) -> list[str]:
    """How large the batches of the whole run are, where they are not just --batch-size."""
    train, lr = session.data.train, session.lr()
    parts = [(train.share.processes, "processes"), (train.share.accumulate, "batches to a step")]
    factors = "".join(f" x {count} {what}" for count, what in parts if count > 1)
    if not factors:
        return []
    return [
        f"==> effective batch: {train.whole_batch:,} images ({train.batch_size:,}{factors}), learning rate {lr:.3g}"
    ]
