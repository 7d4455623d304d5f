"""From flags or a checkpoint to a model: thresholds, pretrained weights, and files of other networks."""

import pytest
import torch
from tiny_runs import tiny_flags, train

import models
import quantize
import training
from training.model import load_weights, usable

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def binary_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("binary") / "run", epochs=1)


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("float") / "run", epochs=1, scheme="none")


def setup(tmp_path, **flags):
    return training.setup(training.config_from_flags(tiny_flags(tmp_path / "new", **flags)))


def test_load_model_gives_the_best_model_and_its_facts(binary_run):
    model, info = training.load_model(binary_run.run_dir)
    images, _ = next(iter(binary_run.data.test))
    assert not model.training
    assert torch.equal(model(images), binary_run.model.eval()(images))
    assert (info.arch, info.scheme, info.epoch, info.acc1) == ("tiny_xnornet", "xnor", 1, binary_run.best_acc1)
    assert info.classes == binary_run.data.classes
    assert info.input_size == (1, 8, 8)
    assert info.normalization == binary_run.data.normalization
    assert info.path == binary_run.run_dir / "best.pt"


def test_the_float_twin_has_the_same_layout(float_run, binary_run):
    assert not any(isinstance(m, quantize.BinaryLayer) for m in float_run.model.modules())
    assert float_run.model.state_dict().keys() <= binary_run.model.state_dict().keys()
    model, info = training.load_model(float_run.run_dir)
    assert info.scheme is None
    assert isinstance(model[2], torch.nn.Conv2d)


def test_a_float_run_starts_a_binary_one(float_run, tmp_path):
    session = setup(tmp_path, pretrained=str(float_run.run_dir))
    best, _ = training.load_model(float_run.run_dir)
    for name, value in best.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], value)


def test_thresholds_start_at_the_pretrained_activations(float_run, tmp_path):
    """A network without batch norm before its convolutions needs them; they come from the float weights."""

    @models.register_model("relu_first", input_size=(1, 8, 8))
    def relu_first(num_classes=10, in_chans=1, layout="float"):
        nn = torch.nn
        layers = [nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, num_classes)]
        return nn.Sequential(*layers)

    pretrained = relu_first()
    with torch.no_grad():
        pretrained[0].bias.add_(5)
    torch.save(pretrained.state_dict(), tmp_path / "float.pt")
    session = setup(tmp_path, arch="relu_first_xnornet", pretrained=str(tmp_path / "float.pt"))
    images, _ = next(iter(session.data.train))
    with torch.no_grad():
        expected = pretrained[1](pretrained[0](images)).mean((0, 2, 3))
    torch.testing.assert_close(session.model[2].threshold.detach(), expected)
    torch.save(session.model.state_dict(), tmp_path / "binary.pt")  # and a binary file brings its own
    again = setup(tmp_path, arch="relu_first_xnornet", pretrained=str(tmp_path / "binary.pt"), seed=7)
    torch.testing.assert_close(again.model[2].threshold, session.model[2].threshold)


def test_what_another_scheme_learned_is_left_out(tmp_path):
    other = quantize.prepare(models.create_model("tiny"), "xnorpp", torch.randn(4, 1, 8, 8))
    assert "2.gamma" in other.state_dict()
    model = quantize.prepare(models.create_model("tiny"), "bwn", torch.randn(4, 1, 8, 8))
    assert usable(other.state_dict(), model).keys() == model.state_dict().keys()


def test_a_head_of_other_classes_is_kept_new():
    weights = models.create_model("tiny", num_classes=7).state_dict()
    model = models.create_model("tiny", num_classes=10)
    head = model[9].weight.clone()
    load_weights(model, weights, "file", classes=10)
    assert torch.equal(model[9].weight, head)
    assert torch.equal(model[0].weight, weights["0.weight"])
    with pytest.raises(ValueError, match="'9.weight' has shape"):
        load_weights(model, weights, "file")
    with pytest.raises(ValueError, match="'9.weight' has shape"):  # of other features too: no head of this network
        load_weights(model, {**weights, "9.weight": torch.ones(7, 32)}, "file", classes=10)


def test_weights_of_another_architecture_are_refused(binary_run, tmp_path):
    with pytest.raises(ValueError, match="holds another architecture: .*; give its own --arch"):
        setup(tmp_path, arch="lenet5_xnornet", pretrained=str(binary_run.run_dir))
    model = models.create_model("tiny")
    weights = model.state_dict()
    del weights["5.weight"]
    with pytest.raises(ValueError, match="it has no '5.weight'"):
        load_weights(model, weights, "file")
    with pytest.raises(ValueError, match=r"it has an extra 'more.weight'"):
        load_weights(model, {**model.state_dict(), "more.weight": torch.ones(1)}, "file")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        setup(tmp_path, pretrained=str(tmp_path / "list.pt"))


def test_only_timm_has_published_weights(tmp_path):
    with pytest.raises(ValueError, match="no published weights for 'tiny_xnornet'; give a checkpoint"):
        setup(tmp_path, pretrained="timm")


def test_a_timm_network_takes_the_size_asked_for(tmp_path):
    session = setup(tmp_path, arch="timm/resnet18", scheme="bwn", img_size=16)
    assert session.data.input_size == (3, 16, 16)
    assert isinstance(session.model.layer1[0].conv1, quantize.BinaryConv2d)
    assert not isinstance(session.model.fc, quantize.BinaryLinear)


def test_a_size_that_the_network_does_not_take(tmp_path):
    with pytest.raises(ValueError, match=r"'lenet5' does not take images of shape \(1, 30, 30\) .*change --img-size"):
        setup(tmp_path, arch="lenet5", img_size=30)
    assert not (tmp_path / "new").exists()


def test_other_classes_in_the_data_are_refused(binary_run):
    from training.run import check_same_classes

    with pytest.raises(ValueError, match=r"the 2 classes of 'a.pt' are not the 2 of the data \(cow, dog differ\)"):
        check_same_classes(["cat", "dog"], ["cat", "cow"], "a.pt")
