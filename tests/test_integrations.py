"""Other people's trainers, each for a few steps with the callback that this package has for it, against a plain loop:
the weights are the same to the last bit.
"""

import functools
import importlib
import re
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import quantize
from quantize.health import Figures
from quantize.integrations.duties import Duties

SCHEMES = ("xnor", "irnet", "recu", "bnn", "binaryconnect:stochastic=True")
STEPS, EPOCHS, BATCH = 8, 2, 8
LR, DECAY = 0.5, 1e-2  # high, so that clipping has something to do


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    count = BATCH * STEPS // EPOCHS
    return TensorDataset(
        torch.randn(count, 3, 6, 6, generator=generator), torch.randint(4, (count,), generator=generator)
    )


def batches(data):
    return DataLoader(data, BATCH, generator=torch.Generator())  # of its own: the global one is the network's


def network(scheme):
    """Two binary layers; without an example the thresholds wait for the first batch."""
    torch.manual_seed(2)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model = quantize.prepare(model, scheme).train()
    with torch.no_grad():
        for layer in binary_layers(model):
            layer.weight.mul_(12)  # on both sides of where clipping begins
    return model


def binary_layers(model):
    return [module for module in model.modules() if isinstance(module, quantize.BinaryLayer)]


def optimizer_of(model):
    return torch.optim.SGD(quantize.param_groups(model, DECAY), lr=LR, momentum=0.9)


def statistics(data):
    return [images for images, _ in batches(data)]


def plain(scheme, data, accumulate=1, without=""):
    """The loop that the guide shows; ``without`` one of its duties."""
    model = network(scheme)
    optimizer = optimizer_of(model)
    clips = quantize.get_scheme(scheme).clips_weights and without != "clipping"
    steps = STEPS // accumulate
    torch.manual_seed(3)
    for number, (images, labels) in enumerate(batch for _ in range(EPOCHS) for batch in batches(data)):
        quantize.set_progress(model, 0 if without == "progress" else number // accumulate / steps)
        (F.cross_entropy(model(images), labels) / accumulate).backward()
        if (number + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            if clips:
                quantize.clip_latent_weights(model)
    if quantize.get_scheme(scheme).random_in_training and without != "statistics":
        quantize.estimate_statistics(model, statistics(data))
    return model


def by_lightning(model, data, accumulate=1, logger=False, validate=False, **options):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs lightning")
    from quantize.integrations.lightning import BinaryCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images)

        def training_step(self, batch, index):
            images, labels = batch
            return F.cross_entropy(self(images), labels)

        def validation_step(self, batch, index):
            self(batch[0])

        def configure_optimizers(self):
            return optimizer_of(self)

        def on_train_start(self):
            torch.manual_seed(3)

    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[BinaryCallback(**options)],
        accumulate_grad_batches=accumulate,
        logger=logger,
        limit_val_batches=1.0 if validate else 0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), batches(data), batches(data))
    return trainer


def by_transformers(model, data, tmp_path, accumulate=1, validate=False, **options):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="needs accelerate")
    from quantize.integrations.transformers import BinaryCallback

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, labels=None):
            logits = self.model(images)
            if labels is None:
                return logits
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def collate(rows):
        images, labels = zip(*rows, strict=True)
        return {"images": torch.stack(images), "labels": torch.stack(labels)}

    class Trainer(transformers.Trainer):
        def get_eval_dataloader(self, eval_dataset=None):
            return self.get_train_dataloader()

        def get_train_dataloader(self):
            loader = batches(data)
            loader.collate_fn = collate
            return loader

    class Seed(transformers.TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            torch.manual_seed(3)

    module = Module()
    optimizer = optimizer_of(model)
    trainer = Trainer(
        module,
        transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=accumulate,
            max_grad_norm=0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            eval_strategy="epoch" if validate else "no",
            disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data if validate else None,
        callbacks=[BinaryCallback(**options), Seed()],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    trainer.train()
    return trainer


def by_timm(model, data):
    """As timm's train.py: its factory of optimizers and its task, with the lines of the guide."""
    from timm.optim import create_optimizer_v2
    from timm.task import ClassificationTask

    groups = functools.partial(quantize.param_groups, weight_decay=DECAY)
    optimizer = create_optimizer_v2(model, "sgd", lr=LR, momentum=0.9, param_group_fn=groups)
    optimizer.param_groups[0]["nesterov"] = optimizer.param_groups[1]["nesterov"] = False  # timm's default is True
    quantize.anneal_after_step(optimizer, model, steps=STEPS)
    if binary_layers(model)[0].scheme.clips_weights:
        quantize.clip_after_step(optimizer, model)
    task = ClassificationTask(model, criterion=nn.CrossEntropyLoss(), verbose=False)
    torch.manual_seed(3)
    for _ in range(EPOCHS):
        task.train()
        for images, labels in batches(data):
            result = task(images, labels)
            result["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()


def assert_same(model, expected):
    for (name, found), (_, value) in zip(model.state_dict().items(), expected.state_dict().items(), strict=True):
        assert torch.equal(found, value), name


@pytest.mark.parametrize(
    ("scheme", "without"),
    [("irnet", "progress"), ("recu", "progress"), ("bnn", "clipping"), (SCHEMES[-1], "statistics")],
)
def test_each_duty_changes_the_weights_here(scheme, without, data):
    """So that the other tests can tell."""
    whole, part = (plain(scheme, data, without=duty).state_dict() for duty in ("", without))
    assert not all(torch.equal(whole[name], part[name]) for name in whole)


def test_thresholds_start_on_the_first_batch(data):
    layers = binary_layers(plain("xnor", data))
    assert len(layers) == 2
    assert all(not layer.threshold_pending and layer.threshold.any() for layer in layers)


@pytest.mark.parametrize(("scheme", "accumulate"), [*((scheme, 1) for scheme in SCHEMES), ("irnet", 2)])
def test_lightning_gives_the_weights_of_the_plain_loop(scheme, accumulate, data):
    model = network(scheme)
    by_lightning(model, data, accumulate, statistics=statistics(data))
    assert_same(model, plain(scheme, data, accumulate))


@pytest.mark.parametrize(("scheme", "accumulate"), [*((scheme, 1) for scheme in SCHEMES), ("irnet", 2)])
def test_transformers_gives_the_weights_of_the_plain_loop(scheme, accumulate, data, tmp_path):
    model = network(scheme)
    by_transformers(model, data, tmp_path, accumulate, statistics=statistics(data))
    assert_same(model, plain(scheme, data, accumulate))


@pytest.mark.parametrize("scheme", ["irnet", "bnn"])
def test_timms_task_and_optimizer_give_the_weights_of_the_plain_loop(scheme, data):
    model = network(scheme)
    by_timm(model, data)
    assert_same(model, plain(scheme, data))


@pytest.fixture
def evaluations():
    """A network that draws its weights, and for each of its forward passes in evaluation whether its statistics are of
    the draws still.
    """
    model, seen = network(SCHEMES[-1]), []
    layers = binary_layers(model)
    model.register_forward_pre_hook(
        lambda *_: None if model.training else seen.append(any(layer.drawn for layer in layers))
    )
    return model, seen


def test_lightning_validates_with_the_statistics_that_ship(evaluations, data):
    model, seen = evaluations
    by_lightning(model, data, validate=True, statistics=statistics(data))
    assert len(seen) > 2 * EPOCHS
    assert not any(seen)


def test_transformers_evaluates_with_the_statistics_that_ship(evaluations, data, tmp_path):
    model, seen = evaluations
    by_transformers(model, data, tmp_path, validate=True, statistics=statistics(data))
    assert len(seen) > 2 * EPOCHS
    assert not any(seen)


# What the callbacks log and refuse.


def test_lightning_logs_figures_after_each_epoch(data, tmp_path):
    loggers = pytest.importorskip("lightning.pytorch.loggers", reason="needs lightning")
    logger = loggers.CSVLogger(tmp_path, name="", version="")
    model = network("xnor")
    trainer = by_lightning(model, data, logger=logger, watch=data.tensors[0])
    health = {name: value for name, value in Figures(model, data.tensors[0])().items() if name.startswith("health/")}
    assert len(health) == 6
    for name, value in health.items():
        assert trainer.logged_metrics[name.replace("/", "/model.", 1)].item() == pytest.approx(value, rel=1e-6)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"flip_rate/model.3", "flip_rate/model.6"} <= set(header.split(","))
    assert len(rows) == EPOCHS


def test_transformers_hands_figures_to_the_log(data, tmp_path):
    model, logged = network("xnor"), []
    by_transformers(model, data, tmp_path, watch=data.tensors[0], log=logged.append)
    assert len(logged) == EPOCHS
    expected = Figures(model, data.tensors[0])()
    assert {name.replace("model.", "") for name in logged[-1]} == set(expected)
    for name, value in expected.items():
        if name.startswith("health/"):
            assert logged[-1][name.replace("/", "/model.", 1)] == value


def test_duties_that_cannot_be_done_are_refused(data):
    with pytest.raises(ValueError, match=r"clip is -1; it must be 0 \(no clipping\) or more"):
        Duties(clip=-1)
    duties = Duties()
    duties.begin(network("irnet"))
    with pytest.raises(ValueError, match="the trainer says that it has inf steps; give it a number of steps or epochs"):
        duties.before_step(0, float("inf"))
    duties.begin(network("xnor"))
    duties.before_step(0, float("inf"))


def test_a_callback_of_transformers_needs_a_log_for_what_it_watches(data):
    pytest.importorskip("transformers", reason="needs transformers")
    from quantize.integrations.transformers import BinaryCallback

    with pytest.raises(ValueError, match="watch is a batch whose figures log gets; give both, or none of them"):
        BinaryCallback(watch=data.tensors[0])


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_a_missing_trainer_is_named(package, monkeypatch):
    class Absent:
        def find_spec(self, name, *_):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    ours = f"quantize.integrations.{package}"
    for name in [name for name in sys.modules if f"{name}.".startswith((f"{package}.", f"{ours}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    said = f"{ours} needs {package}, which is not installed: pip install {package}"
    with pytest.raises(ModuleNotFoundError, match=re.escape(said)):
        importlib.import_module(ours)


# A loop that has the optimizer alone.


def progress_of(model):
    return binary_layers(model)[0].progress.item()


def test_progress_follows_the_steps_of_an_optimizer():
    model = network("irnet")
    optimizer = optimizer_of(model)
    handle = quantize.anneal_after_step(optimizer, model, steps=4, done=1)
    seen = [progress_of(model)]
    for _ in range(4):
        optimizer.step()
        seen.append(progress_of(model))
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0]
    handle.remove()
    quantize.set_progress(model, 0.5)
    optimizer.step()
    assert progress_of(model) == 0.5


@pytest.mark.parametrize(("steps", "done"), [(0, 0), (4, 4), (4, -1)])
def test_progress_over_no_steps_is_refused(steps, done):
    model = network("irnet")
    with pytest.raises(ValueError, match=f"{done} of {steps} steps are done; steps must be those of the whole"):
        quantize.anneal_after_step(optimizer_of(model), model, steps, done)
