"""What a run is told to do: flags, recipes, and the configuration they make."""

from .flags import make_parser
from .train_config import TrainConfig, flag_name, parse_flags, whole_epochs

__all__ = ["TrainConfig", "flag_name", "make_parser", "parse_flags", "whole_epochs"]
