"""The training loop."""

import torch
from torch import nn
from torch.nn import functional as F

import quantize

from .checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from .console import progress
from .data import Loader
from .errors import NonFiniteError
from .logger import RunLogger
from .metrics import Meter, Metrics
from .nonfinite import all_finite, first_nonfinite
from .session import Session


def fit(session: Session) -> float:
    """Train to the last epoch; best test accuracy in percent.

    Each epoch ends with a checkpoint (``last.pt``, and ``best.pt`` where it is the best), one line of
    the log and one point of each curve, in ``session.run_dir``. After it the model has the best weights.

    Raises NonFiniteError where the loss or a weight is not finite, and KeyboardInterrupt; the last
    checkpoint is whole then.
    """
    with RunLogger(session) as logger:
        while session.epoch < session.config.epochs:
            session.data.train.set_epoch(session.epoch)
            quantize.set_progress(session.model, session.epoch / session.config.epochs)
            lr = session.optimizer.param_groups[0]["lr"]
            train = train_epoch(session)
            test = evaluate(session.model, session.data.test)
            if not all_finite(session.model):
                images, _ = next(iter(session.data.test))
                stop_nonfinite(session, "a weight", f"after epoch {session.epoch + 1}", images)
            session.scheduler.step()
            session.epoch += 1
            best = test.top1 > session.best_acc1
            session.best_acc1 = max(test.top1, session.best_acc1)
            logger.epoch(session.epoch, lr, train, test)
            save(session, test.top1, best)
        session.model.load_state_dict(read_checkpoint(session.run_dir, BEST)["model"])
        logger.finish()
    return session.best_acc1


def train_epoch(session: Session) -> Metrics:
    """One pass over the training set."""
    model, optimizer, loader = session.model.train(), session.optimizer, session.data.train
    meter = Meter(session.device)
    epoch = session.epoch + 1
    for step, (images, labels) in enumerate(progress(meter.batches(loader), len(loader), f"Train {epoch}"), 1):
        outputs = model(images)
        loss = F.cross_entropy(outputs, labels)
        if not torch.isfinite(loss):
            stop_nonfinite(
                session, f"the loss is {loss.item()}", f"at epoch {epoch}, step {step} of {len(loader)}", images
            )
        optimizer.zero_grad(set_to_none=True)  # not earlier: where the loss is not finite, the old gradients tell why
        loss.backward()
        optimizer.step()
        meter.add(loss, outputs, labels)
    return meter.result()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader) -> Metrics:
    """One pass over a test set, in evaluation mode; the model is left in it."""
    model.eval()
    meter = Meter(next(model.parameters()).device)
    for images, labels in progress(meter.batches(loader), len(loader), "Test"):
        outputs = model(images)
        meter.add(F.cross_entropy(outputs, labels), outputs, labels)
    return meter.result()


def save(session: Session, acc1: float, best: bool) -> None:
    """Write ``last.pt``, and ``best.pt`` before it: a cut between them loses neither."""
    contents = session.checkpoint(acc1)
    for name in (BEST, LAST) if best else (LAST,):
        save_checkpoint(session.run_dir / name, contents)


def stop_nonfinite(session: Session, what: str, when: str, images: torch.Tensor) -> None:
    """Raises NonFiniteError that names the layer and the last good checkpoint."""
    last = session.run_dir / LAST
    good = (
        f"the last good checkpoint is {last}" if last.exists() else "no epoch was finished, so there is no checkpoint"
    )
    where = first_nonfinite(session.model, images)
    raise NonFiniteError(f"{what} {when}: {where}; {good}; try a lower --lr than {session.config.lr}")
