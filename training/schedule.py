"""The stages of a run: one, or two of which the first trains float weights behind binary inputs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run with an optimizer and a learning-rate schedule of its own.

    Attributes:
        start: epochs of the run before it.
        epochs: its length.
        weight_decay: of its optimizer.
        float_weights: binary layers compute with their latent weights. Accuracy is then not that of the
            network that ships, and no checkpoint of the stage is the best one.
    """

    start: int
    epochs: int
    weight_decay: float
    float_weights: bool = False


def stages_of(config) -> list[Stage]:
    """One stage, or with ``--stage1-epochs`` two, the second without weight decay. Liu et al., *ReActNet*, 2020."""
    first = config.stage1_epochs
    if not first:
        return [Stage(0, config.epochs, config.weight_decay)]
    return [
        Stage(0, first, config.weight_decay, float_weights=True),
        Stage(first, config.epochs - first, weight_decay=0.0),
    ]


def stage_at(config, epoch: int) -> Stage:
    """The stage of the epoch that follows ``epoch`` epochs; the last one after all."""
    return [stage for stage in stages_of(config) if stage.start <= epoch][-1]
