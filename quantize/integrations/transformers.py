"""A callback for the Trainer of transformers."""

from collections.abc import Callable, Sequence
from typing import Any

from .duties import Duties, explained

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise explained(error, "transformers", __name__) from None


class BinaryCallback(TrainerCallback):
    """Does for the binary layers of a model what a training loop has to; see :class:`Duties` for the arguments.

    The progress of annealed schemes is that of the trainer's steps; weights are clipped after each step; statistics are
    estimated before each evaluation and each checkpoint, and at the end. Parameter groups are made where the optimizer
    is: ``Trainer(..., optimizers=(AdamW(quantize.param_groups(model, weight_decay)), None))``.
    """

    def __init__(
        self,
        clip: float = 1.0,
        statistics: Sequence[Any] = (),
        watch: Any = None,
        log: Callable[[dict[str, float]], None] | None = None,
    ):
        """``log`` gets the figures of ``watch`` after each epoch: ``lambda figures: trainer.log(figures)``.

        Raises ValueError for ``watch`` without ``log``: a callback does not know its trainer.
        """
        if (watch is None) != (log is None):
            raise ValueError("watch is a batch whose figures log gets; give both, or none of them")
        self.duties = Duties(clip, statistics, watch)
        self.log = log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.duties.begin(kwargs["model"])

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.duties.before_step(state.global_step, state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.duties.after_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._before_evaluation(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._before_evaluation(control)
        if self.log is not None:
            self.log(self.duties.figures())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.duties.before_evaluation()

    def _before_evaluation(self, control: TrainerControl) -> None:
        if control.should_evaluate or control.should_save:  # set by the trainer's own callback, which comes first
            self.duties.before_evaluation()
