"""The training loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import quantize

from .checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from .console import progress
from .data import Loader
from .errors import NonFiniteError
from .logger import RunLogger
from .metrics import Meter, Metrics
from .nonfinite import all_finite, first_nonfinite
from .objective import cross_entropy
from .session import Session


def fit(session: Session) -> float:
    """Train to the last epoch; best test accuracy in percent.

    Each epoch ends with a checkpoint (``last.pt``, and ``best.pt`` where it is the best), one line of
    the log and one point of each curve, in ``session.run_dir``. After it the model has the best weights. The
    first of two stages has no best checkpoint: its accuracy is that of float weights.

    Raises NonFiniteError where the loss or a weight is not finite, and KeyboardInterrupt; the last
    checkpoint is whole then.
    """
    with RunLogger(session) as logger:
        while session.epoch < session.config.epochs:
            session.data.train.set_epoch(session.epoch)
            quantize.set_progress(session.model, session.epoch / session.config.epochs)
            stage, lr = session.stage, session.optimizer.param_groups[0]["lr"]
            train = train_epoch(session)
            test = evaluate(session.evaluated, session.data.test, session.objective.loss)
            if not all_finite(session.model):
                images, _ = next(iter(session.data.test))
                stop_nonfinite(session, "a weight", f"after epoch {session.epoch + 1}", images)
            session.scheduler.step()
            session.epoch += 1
            best = not stage.float_weights and (session.best_acc1 is None or test.top1 > session.best_acc1)
            if best:
                session.best_acc1 = test.top1
            logger.epoch(stage, lr, train, test)
            if session.stage != stage:
                session.start_stage()
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
        images, targets = session.mixing(images, labels, session.epoch, step)
        outputs = model(images)
        loss = session.objective(outputs, targets, images)
        if not torch.isfinite(loss):
            stop_nonfinite(
                session, f"the loss is {loss.item()}", f"at epoch {epoch}, step {step} of {len(loader)}", images
            )
        optimizer.zero_grad(set_to_none=True)  # not earlier: where the loss is not finite, the old gradients tell why
        loss.backward()
        optimizer.step()
        if session.average is not None:
            session.average.update_parameters(model)
        meter.add(loss, outputs, labels)
    return meter.result()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> Metrics:
    """One pass over a test set, in evaluation mode; the model is left in it. ``loss`` is one of ``LOSSES``."""
    model.eval()
    meter = Meter(next(model.parameters()).device)
    for images, labels in progress(meter.batches(loader), len(loader), "Test"):
        outputs = model(images)
        meter.add(loss(outputs, labels), outputs, labels)
    return meter.result()


def save(session: Session, acc1: float, best: bool) -> None:
    """Write ``last.pt``, and ``best.pt`` before it: a cut between them loses neither."""
    contents = session.checkpoint(acc1)
    for name in (BEST, LAST) if best else (LAST,):
        save_checkpoint(session.run_dir / name, contents)


def stop_nonfinite(session: Session, what: str, when: str, images: Tensor) -> None:
    """Raises NonFiniteError that names the layer and the last good checkpoint."""
    last = session.run_dir / LAST
    good = (
        f"the last good checkpoint is {last}" if last.exists() else "no epoch was finished, so there is no checkpoint"
    )
    where = first_nonfinite(session.model, images)
    raise NonFiniteError(f"{what} {when}: {where}; {good}; try a lower --lr than {session.config.lr}")
