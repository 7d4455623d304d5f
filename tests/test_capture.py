"""quantize.capture: a run carried out again gives what the model gives, to the last bit, or is refused."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
import quantize
from quantize.kernels import cpu
from quantize.kernels.calls import WrittenCalls
from quantize.replay.pointwise import as_call

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


def packed_network(name: str, size: tuple[int, ...], batch: int = 1) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(batch, *size)
    scheme = name.split("_")[-1].replace("xnornet", "xnor")
    model = quantize.prepare(models.create_model(name), scheme, x)
    model.train()(torch.cat([x, torch.randn_like(x)]))  # batch norms as if trained
    return quantize.convert(model, x), x


def assert_same(run: quantize.Captured, model: nn.Module, x: Tensor) -> None:
    """For several inputs, and without writing into results that were given before."""
    given = []
    for seed in range(3):
        y = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        given.append((run(y), model(y)))
    for found, expected in given:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("nin_xnornet", CIFAR),
        ("nin_gc_xnornet", CIFAR),
        ("lenet5_xnornet", MNIST),
        ("resnet20_bireal", CIFAR),
        ("resnet20_react", CIFAR),
        ("mlp_xnornet", MNIST),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_networks(name, size, batch):
    packed, x = packed_network(name, size, batch)
    assert_same(quantize.capture(packed, x), packed, x)


def test_a_network_is_few_calls():
    """Shortcuts, activations and batch norms between layers of bits are the library's too."""
    packed, x = packed_network("resnet20_react", CIFAR)
    run = quantize.capture(packed, x)
    written, *rest = run._program
    assert isinstance(written, WrittenCalls)
    assert len(written) > 80  # 19 convolutions, 18 shortcuts, 18 times three steps of RPReLU
    assert len(rest) == 2  # the mean and the classifier


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_kernels(kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    packed, x = packed_network("lenet5_xnornet", MNIST)
    assert_same(quantize.capture(packed, x), packed, x)


@pytest.mark.parametrize(
    "scheme", ["dorefa:w_bits=2,a_bits=2", "bwn", "ternary", "xnorpp", "xnor:input_scale=true", "react"]
)
def test_schemes(scheme):
    net = nn.Sequential(
        nn.Conv2d(3, 130, 3, padding=1), nn.BatchNorm2d(130), nn.ReLU(), nn.Conv2d(130, 64, 3, padding=1),
        nn.PReLU(64), nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.Hardtanh(), nn.Conv2d(64, 8, 1), nn.Flatten(),
        nn.Linear(8 * 20 * 20, 70), nn.Sigmoid(), nn.Linear(70, 10),
    )  # fmt: skip
    x = torch.randn(2, 3, 10, 10)
    packed = quantize.convert(quantize.prepare(net, scheme, x), x)
    assert_same(quantize.capture(packed, x), packed, x)


def test_volumes_and_8_bit_ends():
    net = nn.Sequential(
        nn.Conv3d(1, 64, 3), nn.BatchNorm3d(64), nn.Conv3d(64, 64, 3), nn.Flatten(1), nn.Linear(64 * 8, 5)
    )
    x = torch.randn(1, 1, 6, 6, 6)
    packed = quantize.convert(quantize.prepare(net, "xnor", x), x)
    assert_same(quantize.capture(packed, x), packed, x)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(1), nn.Linear(64 * 16, 5))
    x = torch.randn(8, 3, 8, 8)
    packed = quantize.convert(
        quantize.prepare(net, "xnor", x), x, float_layers="int8", calibration=x.repeat(8, 1, 1, 1), max_drop=100
    )
    assert_same(quantize.capture(packed, x), packed, x)


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18", "vit_tiny_patch16_224"])
def test_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224 if "224" in name else 64, 224 if "224" in name else 64)
    packed = quantize.convert(quantize.prepare(timm.create_model(name, num_classes=7), "bireal", x), x)
    assert_same(quantize.capture(packed, x), packed, x)


def test_threads_take_turns():
    packed, x = packed_network("lenet5_xnornet", MNIST)
    run = quantize.capture(packed, x)
    inputs = [torch.randn_like(x) for _ in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, inputs))
    for y, one in zip(inputs, found, strict=True):
        torch.testing.assert_close(one, packed(y), rtol=0, atol=0)


def test_the_model_may_change_or_go():
    packed, x = packed_network("lenet5_xnornet", MNIST)
    run, expected = quantize.capture(packed, x), packed(x)
    state = {name: value.flip(0) if value.is_floating_point() else value for name, value in packed.state_dict().items()}
    packed.load_state_dict(state)
    assert not torch.equal(packed(x), expected)
    del packed
    for _ in range(3):
        torch.randn(1 << 20)
        torch.testing.assert_close(run(x), expected, rtol=0, atol=0)


class Around(nn.Module):
    """A packed layer with a function in front and one behind it, or a method of its own to compute the output."""

    def __init__(self, before=lambda x: x, after=lambda y: y):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 4, 3))
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.layer(self.before(x)))


def around(before=lambda x: x, after=lambda y: y) -> tuple[nn.Module, Tensor]:
    """The functions are put in once the model is converted: convert has checks of its own."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 10, 10)
    packed = quantize.convert(quantize.prepare(Around(), "xnor", x), x)
    packed.before, packed.after = before, after
    return packed, x


def accumulated(y):
    total = torch.zeros_like(y[:, :2])  # is filled in place, each time anew
    for part in y.split(2, 1):
        total += part
    return total


def scattered(y):
    result = torch.full((*y.shape[:2], 4, 8), 0.5)
    result[..., ::2] = y
    return result


def normed(y):
    return torch.nn.functional.batch_norm(y, torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4))


@pytest.mark.parametrize(
    "after",
    [
        accumulated,
        scattered,
        lambda y: torch.cat([part.relu_() for part in y.chunk(2, 1)], 1),
        lambda y: y.permute(0, 2, 3, 1).reshape(2, -1).softmax(-1),
        lambda y: y.to(memory_format=torch.channels_last) + 1,
        lambda y: (y * 2 - torch.arange(4).view(4, 1, 1)).clamp(max=3) * y.new_tensor([0.5]),
        lambda y: {"sum": y.sum((2, 3)), "list": [y, (y > 0, y.argmax(1))], "scale": 3, "none": None},
        lambda y: y.topk(2, dim=1),
        lambda y: torch.nn.functional.interpolate(y, scale_factor=2, mode="bilinear"),
        normed,
        lambda y: nn.functional.layer_norm(y, y.shape[1:]),
        lambda y: y.double().cumsum(1).int(),
        lambda y: y + torch.eye(4).matmul(y),
    ],
)  # fmt: skip
def test_what_may_stand_around_layers(after):
    packed, x = around(after=after)
    assert_same(quantize.capture(packed, x), packed, x)


def test_arguments_and_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 4, 3))

        def forward(self, x, other, scale=1.0, *, double=False):
            return self.layer(x * scale) + other * (2 if double else 1)

    example = {"x": torch.randn(1, 4, 9, 9), "other": torch.randn(4, 1, 1), "scale": 0.5, "double": True}
    packed = quantize.convert(quantize.prepare(Two(), "xnor", example), example)
    run = quantize.capture(packed, example)
    other = {**example, "x": torch.randn(1, 4, 9, 9), "other": torch.randn(4, 1, 1)}
    torch.testing.assert_close(run(**other), packed(**other), rtol=0, atol=0)
    with pytest.raises(ValueError, match="captured for inputs"):
        run(**{**other, "double": False})
    with pytest.raises(ValueError, match="captured for inputs"):
        run(other["x"], other["other"])


class Result:
    def __init__(self, y):
        self.y = y


def by_numpy(y):
    return torch.from_numpy(np.tanh(y.detach().numpy()))


CALLS = []


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (lambda y: y if y.sum() > 0 else -y, "decides what it does next"),
        (lambda y: y * float(y.max()), "decides what it does next"),
        (lambda y: y[y > 0], "size of what it computes"),
        (lambda y: torch.nn.functional.dropout(y, 0.5, training=True), "draws random numbers"),
        (lambda y: y + torch.rand(4, 1, 1), "draws random numbers"),
        (Result, "returns a Result"),
        (by_numpy, "another result than the model"),
        (lambda y: CALLS.append(0) or y + len(CALLS), "another result than the model"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured(after, reason):
    packed, x = around(after=after)
    before = torch.get_rng_state()
    with pytest.raises(quantize.CannotCapture, match=reason):
        quantize.capture(packed, x)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_is_not_converted_is_refused():
    x = torch.randn(1, *MNIST)
    with pytest.raises(quantize.CannotCapture, match="convert the model first"):
        quantize.capture(models.create_model("lenet5_xnornet"), x)
    with pytest.raises(ValueError, match="does not run on example_input"):
        quantize.capture(packed_network("lenet5_xnornet", MNIST)[0], torch.randn(1, 3, 28, 28))


def test_other_inputs_are_refused():
    packed, x = packed_network("lenet5_xnornet", MNIST)
    run = quantize.capture(packed, x)
    for other in (x.repeat(2, 1, 1, 1), x.double(), x[..., 1:], None):
        with pytest.raises(ValueError, match=r"captured for inputs of shape \(1, 1, 28, 28\)"):
            run(other)
    with pytest.raises(RuntimeError, match="packed layers have no gradient"):
        run(x.clone().requires_grad_())
    torch.testing.assert_close(run(x.transpose(2, 3)), packed(x.transpose(2, 3).contiguous()), rtol=0, atol=0)


def test_autocast_changes_nothing():
    packed, x = packed_network("resnet20_bireal", CIFAR)
    run = quantize.capture(packed, x)
    expected = packed(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(run(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(quantize.capture(packed, x)(x), expected, rtol=0, atol=0)


def test_what_follows_a_run_is_refused():
    """It would see a constant."""
    packed, x = packed_network("lenet5_xnornet", MNIST)
    run = quantize.capture(packed, x)
    with pytest.raises(RuntimeError, match="no tracer and no transform sees"):
        torch.jit.trace(lambda y: run(y), x)
    with pytest.raises(RuntimeError, match="no tracer and no transform sees"):
        torch.func.vmap(run)(x.unsqueeze(0))
    with torch.inference_mode():
        torch.testing.assert_close(run(x), packed(x), rtol=0, atol=0)


def test_a_run_stays_in_its_process():
    packed, x = packed_network("lenet5_xnornet", MNIST)
    run = quantize.capture(packed, x)
    for spread in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="addresses in this process"):
            spread(run)
    assert repr(run).startswith("Captured(inputs of shape (1, 1, 28, 28), ")


@pytest.mark.parametrize(
    ("operator", "others"),
    [
        ("add.Tensor", [(2, 6, 5, 4)]),
        ("add.Tensor", [(6, 1, 1)]),
        ("sub.Tensor", [(1, 6, 1, 1)]),
        ("mul.Tensor", [(4,)]),
        ("mul.Tensor", [(1,)]),
        ("_prelu_kernel.default", [(1, 6, 1, 1)]),
        ("relu.default", []),
        ("hardtanh.default", []),
        ("hardtanh.default", [0.0, 6.0]),
        ("clamp.default", [None, 0.5]),
        ("clamp.default", [-0.25]),
    ],
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_values_of_what_stands_between_layers(operator, others, order):
    """Those of torch, NaNs, infinities and zeros among them."""
    torch.manual_seed(0)
    function = eval(f"torch.ops.aten.{operator}")
    x = torch.randn(2, 6, 5, 4)
    x.flatten()[:7] = torch.tensor([float("nan"), -float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-42])
    x = x.to(memory_format=order)
    arguments = [torch.randn(o) if isinstance(o, tuple) else o for o in others]
    arguments = [a.to(memory_format=order) if isinstance(a, Tensor) and a.dim() == 4 else a for a in arguments]
    expected = function(x, *arguments)
    found = torch.full_like(expected, 7)
    made = as_call(function, (x, *arguments), {}, found)
    assert made is not None
    made.call(made.x.data_ptr(), made.result.data_ptr())
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("add.Tensor", (torch.randn(3, 4), torch.randn(3, 1))),  # neither whole nor a channel's
        ("add.Tensor", (torch.randn(3, 1), torch.randn(3, 4))),
        ("add.Tensor", (torch.randn(3, 4).double(), torch.randn(3, 4).double())),
        ("add.Tensor", (torch.randn(4, 3).t(), torch.randn(3, 4))),
        ("relu.default", (torch.randn(3, 4).half(),)),
        ("sigmoid.default", (torch.randn(3, 4),)),
    ],
)
def test_other_arithmetic_is_torchs(operator, arguments):
    function = eval(f"torch.ops.aten.{operator}")
    result = function(*arguments)
    made = as_call(function, arguments, {}, result)
    if made is None:
        return
    found = torch.full_like(result, 7)
    made.call(made.x.data_ptr(), found.data_ptr())
    torch.testing.assert_close(found, result, rtol=0, atol=0)


def test_memory_is_shared():
    """By what is not needed at the same time: a ResNet's tensors are far more than its run has alive."""
    packed, x = packed_network("resnet20_bireal", CIFAR)
    run = quantize.capture(packed, x)
    _, tape = run._held
    storages = {}
    for tensor in (*tape._held, *(tensor for step in tape._steps for tensor in step.holds)):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    largest = 16 * 32 * 32 * 4  # bytes of an activation, of which the network has 40 and more
    assert sum(storages.values()) < 8 * largest
    assert_same(run, packed, x)
