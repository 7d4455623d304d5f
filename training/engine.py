"""The training loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import quantize
from quantize import BinaryLayer

from .checkpoint import BEST, STATE, read_checkpoint, save_checkpoint
from .data import Loader
from .data.augment import scaled
from .errors import NonFiniteError, RunStopped
from .objective import cross_entropy
from .optimizer import set_learning_rate
from .processes.distributed import gather, is_first, on_first, own_share
from .run import Session
from .schedule import image_size
from .watch.console import progress
from .watch.health import all_finite, first_nonfinite
from .watch.logger import RunLogger, SilentLogger
from .watch.metrics import Meter, Metrics

STATISTICS_IMAGES = 2048  # without --norm-images; a channel's mean is then known to 2% of its spread


def fit(session: Session) -> float:
    """Train to the last epoch; best test accuracy in percent.

    Each epoch ends with a checkpoint (``last.pt``, and ``best.pt`` where it is the best), one line of
    the log and one point of each curve, in ``session.run_dir``. After it the model has the best weights. The
    first of two stages has no best checkpoint: its accuracy is that of float weights.

    Raises NonFiniteError where the loss or a weight is not finite, RunStopped where a file cannot be written (the
    disk is full), and KeyboardInterrupt; the last checkpoint is whole then.
    """
    try:
        return train_to_the_end(session)
    except OSError as error:
        last = session.last
        state = f"{last} is whole, continue with --resume {last}" if last.exists() else "there is no checkpoint yet"
        where = repr(str(error.filename or session.run_dir))
        raise RunStopped(f"{where} cannot be written ({error.strerror or error}); make room; {state}") from error


def train_to_the_end(session: Session) -> float:
    """What :func:`fit` does. Raises OSError where a file cannot be written."""
    with RunLogger(session) if is_first() else SilentLogger() as logger:
        while session.epoch < session.config.epochs:
            quantize.set_progress(session.model, session.epoch / session.config.epochs)
            stage, lr = session.stage, session.lr()
            train = train_epoch(session)
            test = evaluate(session.evaluated, session.data.test, session.objective.loss, session.config.flip_test)
            if not all_finite(session.model):
                images = torch.zeros(1, *session.data.input_size, device=session.device)
                stop_nonfinite(session, "a weight", f"after epoch {session.epoch + 1}", images)
            session.epoch += 1
            best = not stage.float_weights and (session.best_acc1 is None or test.top1 > session.best_acc1)
            if best:
                session.best_acc1 = test.top1
            logger.epoch(stage, lr, train, test, set().union(*gather(session.data.skipped)))
            if session.stage != stage:
                session.start_stage()
            save(session, test.top1, best)
        session.model.load_state_dict(on_first(lambda: read_checkpoint(session.run_dir, BEST)["model"]))
        logger.finish()
    return session.best_acc1


def train_epoch(session: Session) -> Metrics:
    """One pass over the training set, or the rest of one that a checkpoint lies in; then the statistics of tests."""
    session.model.train()
    loader, config = session.data.train, session.config
    meter, first = start_epoch(session)
    epoch, batches = session.epoch + 1, first + len(loader)
    size = image_size(config, session.epoch)
    for number, (images, labels) in enumerate(
        progress(meter.batches(loader), len(loader), f"Train {epoch}"), first + 1
    ):
        images, targets = session.mixing(images, labels, session.epoch, number)
        inputs = scaled(images, size)  # of the network alone: a teacher was trained on the full size
        last = number % config.accumulate == 0
        with session.execution.collecting(last):
            outputs = session.execution(inputs)
            loss = session.objective(outputs, targets, images)
            if not torch.isfinite(loss):
                when = f"at epoch {epoch}, step {number} of {batches}"
                stop_nonfinite(session, f"the loss is {loss.item()}", when, inputs)
            backward(session, loss, first=(number - 1) % config.accumulate == 0)
        if last:
            update(session, session.lr((number - 1) // config.accumulate))
        meter.add(loss, outputs, labels)
        if config.checkpoint_every and number % (config.accumulate * config.checkpoint_every) == 0 and number < batches:
            save_partial(session, meter, loader.done + (number - first) // config.accumulate * loader.whole_batch)
    estimate_statistics(session)
    return meter.result()


def start_epoch(session: Session) -> tuple[Meter, int]:
    """The meter of the epoch, and how many batches of it are done: none, or what a checkpoint that lies in it says."""
    loader, meter, partial = session.data.train, Meter(session.device), session.partial
    session.partial = None
    if partial is None:
        loader.set_epoch(session.epoch)
        return meter, 0
    loader.set_epoch(session.epoch, partial["images"], partial["random_state"])
    for state in own_share(partial["meters"]):
        meter.include(state)
    return meter, partial["images"] // loader.whole_batch * session.config.accumulate


def backward(session: Session, loss: Tensor, first: bool) -> None:
    """Add the gradients of one of the batches that make a step; those of the ``first`` replace the step's before."""
    if first:  # not earlier: where the loss is not finite, the old gradients tell why
        session.optimizer.zero_grad(set_to_none=True)
    session.scaler.scale(loss / session.config.accumulate).backward()


def update(session: Session, lr: float) -> None:
    """Change the weights by the gradients, at learning rate ``lr``, and their average with them."""
    set_learning_rate(session.optimizer, lr)
    session.scaler.step(session.optimizer)
    session.scaler.update()
    if session.average is not None:
        session.average.update_parameters(session.model)


def estimate_statistics(session: Session) -> None:
    """Batch norm's statistics as evaluation computes them, from training images, shifted and mirrored as in training.

    With ``--norm-images`` of what is tested; where training has drawn its weights at random, of the signs that ship,
    anyway. Nothing of the run's random numbers is drawn.
    """
    asked = session.config.norm_images
    for model in {session.model, session.evaluated}:
        drawn = any(isinstance(layer, BinaryLayer) and layer.scheme.random_in_training for layer in model.modules())
        if drawn or asked and model is session.evaluated:
            quantize.estimate_statistics(model, session.data.train.sample(asked or STATISTICS_IMAGES, augmented=True))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    mirrored: bool = False,
) -> Metrics:
    """One pass over a test set, in evaluation mode; the model is left in it. ``loss`` is one of ``LOSSES``.

    ``mirrored``: also of the mean of the outputs for an image and for its mirror image.
    """
    model.eval()
    meter = Meter(next(model.parameters()).device, mirrored)
    for images, labels in progress(meter.batches(loader), len(loader), "Test"):
        outputs = model(images)
        meter.add(loss(outputs, labels), outputs, labels)
        if mirrored:
            meter.add_mirrored(outputs, model(images.flip(3)), labels)
    return meter.result()


def save(session: Session, acc1: float, best: bool) -> None:
    """Write ``last.pt``, and ``best.pt`` before it: a cut between them loses neither."""
    contents = session.checkpoint(acc1)
    if best and is_first():
        trained = {key: value for key, value in contents.items() if key not in STATE}
        save_checkpoint(session.run_dir / BEST, trained)
    if is_first():
        save_checkpoint(session.last, contents)


def save_partial(session: Session, meter: Meter, images: int) -> None:
    """Write ``last.pt`` in the middle of an epoch, after ``images`` of it."""
    partial = {
        "images": images,
        "random_state": session.data.train.random_state,
        "meters": gather(meter.state()),
        "signs": session.flips.bits,
    }
    contents = session.checkpoint(None, partial)
    if is_first():
        save_checkpoint(session.last, contents)


def stop_nonfinite(session: Session, what: str, when: str, images: Tensor) -> None:
    """Raises NonFiniteError that names the layer and the last good checkpoint."""
    last = session.last
    good = (
        f"the last good checkpoint is {last}" if last.exists() else "no epoch was finished, so there is no checkpoint"
    )
    where = first_nonfinite(session.model, images)
    raise NonFiniteError(f"{what} {when}: {where}; {good}; try a lower --lr than {session.config.lr}")
