"""--dropout: which layers it changes, in a new run and in a continued one."""

import pytest
from tiny_runs import tiny_flags, train
from torch import nn

import models
import training
from training.model import set_dropout


def shares(model):
    return [module.p for module in model.modules() if isinstance(module, (nn.Dropout, models.InputDropout))]


def test_layers_that_drop_something_get_another_share():
    model = models.create_model("mlp", width=8)
    assert shares(model) == [0.0, 0.5, 0.5, 0.5]  # the image is not dropped
    set_dropout(model, 0.2)
    assert shares(model) == [0.0, 0.2, 0.2, 0.2]
    set_dropout(model, 0)
    assert shares(model) == [0.0] * 4


def test_a_network_that_drops_nothing():
    with pytest.raises(ValueError, match="--dropout 0.2 has no meaning for a network that drops nothing"):
        set_dropout(models.create_model("resnet20"), 0.2)


def test_a_run_keeps_its_own_share_unless_one_is_given(tmp_path):
    assert shares(train(tmp_path / "own", epochs=1).model) == [0.2]
    schedule = {"lr_schedule": "step", "milestones": (1,)}  # such a run can be made longer
    assert shares(train(tmp_path / "given", epochs=1, dropout=0.4, **schedule).model) == [0.4]
    longer = training.config_from_flags({"resume": str(tmp_path / "given"), "epochs": 2})
    assert shares(training.setup(longer).model) == [0.4]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range(tmp_path, share):
    with pytest.raises(ValueError, match="--dropout is .*; it must be at least 0 and below 1"):
        training.config_from_flags(tiny_flags(tmp_path, dropout=share))
