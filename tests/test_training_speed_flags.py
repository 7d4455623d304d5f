"""--amp, --compile, --channels-last, --accumulate: other ways to compute, the same network in the end."""

import functools

import pytest
import torch
from cut_runs import assert_same
from tiny_runs import epochs_of, tiny_flags, train

import training

FLAGS = {"epochs": 3, "lr": 0.01, "batch_size": 32, "seed": 0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What a run reaches without any of these flags, in percent."""
    return train(tmp_path_factory.mktemp("plain") / "run", **FLAGS).best_acc1


@pytest.mark.parametrize(
    "flags",
    [
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"channels_last": True},
        {"accumulate": 2, "batch_size": 16},
        {"compile": True},
        {"amp": "bf16", "channels_last": True, "accumulate": 2, "batch_size": 16},
    ],
    ids=lambda flags: "-".join(flags),
)
def test_the_accuracy_is_the_same_within_noise(plain, tmp_path, monkeypatch, flags):
    # The graph and its derivative are compiled as ever; to generate their code takes a minute on a CPU.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    session = train(tmp_path / "run", **{**FLAGS, **flags})
    assert session.best_acc1 == pytest.approx(plain, abs=3)  # seeds differ by as much
    model, info = training.load_model(tmp_path / "run")
    assert training.evaluate(model, session.data.test).top1 == pytest.approx(info.acc1, abs=0.3)
    assert all(tensor.dtype != torch.bfloat16 for tensor in model.state_dict().values())


def watch(model, layer):
    """What ``layer`` of ``model`` gives in training, from here on."""
    seen = []
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    return seen


def one_batch(tmp_path, **flags):
    """(a session, what its first layer gives of a training batch, what the whole network gives)."""
    config = training.config_from_flags({**tiny_flags(tmp_path / "run"), **flags})
    session = training.setup(config)
    seen = watch(session.model.train(), "0")
    images, _ = next(iter(session.data.train))
    return session, seen, session.execution(images)


@pytest.mark.parametrize(("amp", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_amp_is_what_the_network_computes_in(tmp_path, amp, dtype):
    session, seen, outputs = one_batch(tmp_path, amp=amp)
    assert seen[0].dtype == dtype
    assert outputs.dtype == torch.float32
    assert session.scaler.is_enabled() == (amp == "fp16")
    assert {p.dtype for p in session.model.parameters()} == {torch.float32}


def test_the_scale_of_fp16_gradients_is_kept_and_a_step_that_overflows_is_left_out(tmp_path):
    session, _, outputs = one_batch(tmp_path, amp="fp16")
    scale, before = session.scaler.get_scale(), [p.detach().clone() for p in session.model.parameters()]
    session.scaler.scale(outputs.sum() * 1e38).backward()
    session.scaler.step(session.optimizer)
    session.scaler.update()
    assert_same(before, [p.detach() for p in session.model.parameters()])
    assert session.checkpoint(None)["scaler"]["scale"] == scale / 2


def test_channels_last_is_how_activations_lie_in_memory(tmp_path):
    _, seen, _ = one_batch(tmp_path, channels_last=True)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


def test_compile_compiles_training_alone(tmp_path):
    config = training.config_from_flags(tiny_flags(tmp_path / "run", compile=True))
    session = training.setup(config)
    assert isinstance(session.execution.model, torch._dynamo.OptimizedModule)
    assert session.execution.model._orig_mod is session.model


def test_accumulated_batches_are_one_batch(tmp_path):
    flags = {"arch": "plain", "scheme": "none", "optimizer": "sgd", "lr": 0.05, "augment": "crop_flip", "epochs": 2}
    whole = train(tmp_path / "whole", batch_size=160, **flags)
    parts = train(tmp_path / "parts", batch_size=40, accumulate=4, **flags)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    steps = epochs_of(tmp_path / "whole")[0]["train"], epochs_of(tmp_path / "parts")[0]["train"]
    assert steps[0]["images"] == steps[1]["images"] == 1440
    assert steps[0]["loss"] == pytest.approx(steps[1]["loss"], rel=1e-4)


def test_the_effective_batch_is_said(tmp_path, capsys):
    train(tmp_path / "parts", batch_size=40, accumulate=4, epochs=1, lr=0.02)
    assert "==> effective batch: 160 images (40 x 4 batches to a step), learning rate 0.02\n" in capsys.readouterr().out
    train(tmp_path / "plain", batch_size=160, epochs=1)
    assert "effective batch" not in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("flags", [{"amp": "bf16"}, {"amp": "fp16"}, {"compile": True, "channels_last": True}], ids=str)
def test_on_cuda(plain, tmp_path, flags):
    session = train(tmp_path / "run", **{**FLAGS, **flags, "gpu": "0"})
    assert session.best_acc1 == pytest.approx(plain, abs=3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"amp": "fp8"}, "unknown --amp 'fp8': did you mean 'fp16'"),
        ({"accumulate": 0}, "--accumulate is 0; it must be at least 1"),
        ({"checkpoint_every": -1}, "--checkpoint-every is -1; it must be at least 0"),
    ],
)
def test_a_value_that_cannot_be_used(flags, message):
    with pytest.raises(ValueError, match=message):
        training.TrainConfig.create(arch="tiny", dataset="digits", **flags)
