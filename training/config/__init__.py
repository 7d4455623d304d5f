"""What a run is told to do: flags, recipes, and the configuration they make. Importing it does not import torch."""

from .flags import as_typed, changed_by_resume, flag_table
from .train_config import TrainConfig, flag_name, make_parser, parse_flags, whole_epochs

__all__ = [
    "TrainConfig",
    "as_typed",
    "changed_by_resume",
    "flag_name",
    "flag_table",
    "make_parser",
    "parse_flags",
    "whole_epochs",
]
