"""prepare() on what people have: layer subclasses, shortcuts, gates, functional weights, every kind of activation."""

import copy
import io
import math
import pickle
from statistics import NormalDist

import pytest
import timm
import torch
import torchvision
from timm import layers as timm_layers
from torch import nn
from torch.nn import functional as F

import quantize
from quantize.threshold import CONSTANT_SIGN_SHARE, channel_sums, threshold_start

LEARNED, ZERO = "learned from the input's mean", "0"


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


# Layer subclasses with a forward of their own


def pad_same(x: torch.Tensor, kernel: int, stride: int, dilation: int) -> torch.Tensor:
    """TensorFlow: pad to ceil(n / stride) outputs, the odd one at the end."""
    pads = []
    for size in reversed(x.shape[2:]):
        needed = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pads += [needed // 2, needed - needed // 2]
    return F.pad(x, pads)


def standardized(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight.detach().double().flatten(1)
    weight = (weight - weight.mean(1, keepdim=True)) / (weight.var(1, keepdim=True, unbiased=False) + layer.eps).sqrt()
    if hasattr(layer, "gain"):
        weight = weight * layer.gain.detach().flatten(1) / math.sqrt(weight.shape[1])
    return weight.reshape(layer.weight.shape).float()


SUBCLASSES = ["Conv2dSame", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]


def subclassed(kind: str, **options) -> tuple[nn.Sequential, nn.Sequential]:
    """A network of one such layer whose gains differ, and the prepared one."""
    torch.manual_seed(0)
    model = nn.Sequential(getattr(timm_layers, kind)(4, 6, 3, **options))
    if hasattr(model[0], "gain"):
        nn.init.normal_(model[0].gain)
    return model, quantize.prepare(model, "bwn", keep_float=())


@pytest.mark.parametrize("scheme", ["bnn", "xnor:center=false", "bwn"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"stride": 2, "groups": 2, "bias": True}, {"stride": 3, "dilation": 2}], ids=str
)
@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_keeps_its_weight_transform_and_padding(kind, options, scheme):
    model, _ = subclassed(kind, **options)
    layer, x = model[0], torch.randn(2, 4, 11, 14)
    weight = standardized(layer) if "Std" in kind else layer.weight.detach()
    alpha = 1.0 if scheme == "bnn" else weight.abs().mean((1, 2, 3), keepdim=True)
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    padded = x if scheme == "bwn" else sign(x)
    padded = pad_same(padded, 3, stride, dilation) if kind.endswith("Same") else F.pad(padded, [layer.padding[0]] * 4)
    expected = F.conv2d(padded, sign(weight) * alpha, layer.bias, stride, 0, dilation, options.get("groups", 1))
    prepared = quantize.prepare(model, scheme, x, keep_float=())
    assert isinstance(prepared[0], quantize.BinaryConv2d)
    torch.testing.assert_close(prepared(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_survives_copies_and_restore(kind):
    model, prepared = subclassed(kind, stride=2)
    x = torch.randn(2, 4, 7, 7)
    for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert torch.equal(copied(x), prepared(x))
    file = io.BytesIO()
    torch.save(prepared.state_dict(), file)
    file.seek(0)
    assert prepared.state_dict().keys() == model.state_dict().keys()
    prepared.load_state_dict(torch.load(file, weights_only=True))
    restored = quantize.restore(prepared)
    assert type(restored[0]) is type(model[0])
    assert vars(restored[0]).keys() == vars(model[0]).keys()
    assert torch.equal(restored(x), model(x))


def test_the_gain_of_a_scaled_convolution_learns():
    _, prepared = subclassed("ScaledStdConv2d")
    prepared(torch.randn(2, 4, 7, 7)).square().sum().backward()
    assert prepared[0].gain.grad.abs().min() > 0
    assert prepared[0].weight.grad.abs().sum() > 0


def test_timm_linear_and_torchvision_subclasses_become_binary():
    from torchvision.models.video.resnet import Conv3DNoTemporal, Conv3DSimple

    model = nn.Sequential(Conv3DSimple(3, 4), Conv3DNoTemporal(4, 5), nn.Flatten(), timm_layers.linear.Linear(320, 3))
    x = torch.randn(2, 3, 4, 4, 4)
    assert quantize.plan(model, "xnor", x, keep_float=()).binary == ["0", "1", "3"]
    assert quantize.prepare(model, "xnor", x, keep_float=())(x).shape == (2, 3)


def doubled(layer: nn.Module) -> torch.Tensor:
    return layer.weight * 2


class DoubledLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2, self.bias)


class InheritingLinear(DoubledLinear):
    """Uses the registered forward."""


class ShiftedLinear(DoubledLinear):
    def forward(self, x):
        return super().forward(x) + 1


def test_register_layer_is_for_one_forward_and_who_inherits_it():
    model = nn.Sequential(DoubledLinear(4, 4), InheritingLinear(4, 4), ShiftedLinear(4, 4))
    with pytest.raises(ValueError, match="0: DoubledLinear has a forward of its own"):
        quantize.plan(model, "bwn", keep_float=())
    quantize.register_layer(DoubledLinear, weight=doubled)
    plan = quantize.plan(model, "bwn", keep_float=())
    assert plan.binary == ["0", "1"]
    assert "ShiftedLinear has a forward of its own" in plan["2"].reason
    x = torch.randn(3, 4)
    layer = quantize.prepare(model, "bwn", keep_float=())[0]
    alpha = (2 * layer.weight).abs().mean(1)
    torch.testing.assert_close(layer(x), x @ sign(layer.weight).T * alpha + layer.bias)


def test_a_taken_attribute_keeps_a_layer_float():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].threshold = 0.5
    plan = quantize.plan(model, "xnor", keep_float=())
    assert plan.binary == ["0"]
    assert plan["1"].reason == "it has an attribute 'threshold', a name that binary layers use"


# Signs that say nothing


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def saturating(x: torch.Tensor) -> torch.Tensor:
    return x * 40  # as a trained batch norm with a large gain: most values are in the flat parts of Hardswish


ACTIVATIONS = {
    "relu": (nn.ReLU(), LEARNED),
    "relu_functional": (Functional(F.relu), LEARNED),
    "relu6": (nn.ReLU6(), LEARNED),
    "relu_in_place": (nn.ReLU(inplace=True), LEARNED),
    "softplus": (nn.Softplus(), LEARNED),
    "sigmoid": (nn.Sigmoid(), LEARNED),
    "sigmoid_functional": (Functional(torch.sigmoid), LEARNED),
    "hardsigmoid": (nn.Hardsigmoid(), LEARNED),
    "softmax": (nn.Softmax(1), LEARNED),
    "log_softmax": (nn.LogSoftmax(1), LEARNED),  # never positive
    "max_pool_of_relu": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), LEARNED),
    "avg_pool_of_relu": (Functional(lambda x: F.avg_pool2d(x.relu(), 3, padding=1)), LEARNED),
    "max_pool": (nn.MaxPool2d(3), LEARNED),  # the largest of 9 signed values is almost never negative
    "square": (Functional(torch.square), LEARNED),
    "hardswish_saturated": (nn.Sequential(Functional(saturating), nn.Hardswish()), LEARNED),
    "hardswish_saturated_functional": (Functional(lambda x: F.hardswish(saturating(x))), LEARNED),
    "hardswish": (nn.Hardswish(), ZERO),
    "gelu": (nn.GELU(), ZERO),
    "silu": (Functional(F.silu), ZERO),
    "leaky_relu": (nn.LeakyReLU(), ZERO),
    "elu": (nn.ELU(), ZERO),
    "tanh": (nn.Tanh(), ZERO),
    "avg_pool": (nn.AvgPool2d(3), ZERO),
    "none": (nn.Identity(), ZERO),
}
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_layer_behind_an_activation_compares_with_zero_or_learns(name):
    activation, threshold = ACTIVATIONS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    row = quantize.plan(model, "xnor", IMAGES)["3"]
    assert row.threshold == threshold
    if threshold == LEARNED:
        values = model[:3](IMAGES)
        torch.testing.assert_close(row.start, values.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_first_training_batch_decides_as_the_example_does(name):
    activation, _ = ACTIVATIONS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    seen = quantize.prepare(model, "xnor", IMAGES)[3]
    pending = quantize.prepare(model, "xnor")
    pending(IMAGES)
    start = torch.zeros(8) if seen.threshold is None else seen.threshold
    torch.testing.assert_close(pending[3].threshold.detach(), start.detach())


def test_each_channel_has_its_own_threshold():
    """A decoder that concatenates: half of its channels behind a ReLU."""
    x = torch.randn(4, 6, 8, 8)
    x[:, :3].relu_()
    start = threshold_start(channel_sums(x, -3))
    torch.testing.assert_close(start, torch.cat([x[:, :3].mean((0, 2, 3)), torch.zeros(3)]))


def test_few_values_do_not_make_a_sign_constant():
    signed = torch.randn(4, 1000)
    assert (signed < 0).all(0).any()
    assert (signed > 0).all(0).any()
    assert threshold_start(channel_sums(signed, -1)).count_nonzero() == 0
    assert threshold_start(channel_sums(signed.relu(), -1)).count_nonzero() > 900


def test_the_constant_share_halves_what_a_gaussian_sign_explains():
    def explained(share: float) -> float:  # correlation of x and sign(x), squared
        return NormalDist().pdf(NormalDist().inv_cdf(share)) ** 2 / (share * (1 - share))

    assert explained(CONSTANT_SIGN_SHARE) == pytest.approx(explained(0.5) / 2, rel=5e-3)
    x = torch.randn(100_000) + NormalDist().inv_cdf(1 - CONSTANT_SIGN_SHARE)
    correlation = torch.corrcoef(torch.stack([x, sign(x)]))[0, 1]
    assert correlation.square().item() == pytest.approx(1 / math.pi, rel=0.05)


# Tiny layers


def test_tiny_layers_draw_a_warning_and_can_stay_float():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 40, 1),
        nn.ConvTranspose2d(40, 16, 3, groups=8),
        nn.Flatten(),
        nn.Linear(16 * 196, 4),
        nn.Linear(4, 2),
    )
    plan = quantize.plan(model, "xnor", IMAGES)
    assert [row.warning for row in plan] == ["", "fan-in 9, less than 32", "", "", "", ""]
    assert "fan-in 9, less than 32" in str(plan)
    kept = quantize.plan(model, "xnor", IMAGES, ("first", "last", "tiny"))
    assert kept.binary == ["2", "3", "5"]
    assert kept["1"].reason == "tiny: fan-in 9, less than 32"
    wide = quantize.plan(model, "xnor", keep_float="tiny", min_fan_in=46)
    assert wide.binary == ["5"]
    assert wide["3"].reason == "tiny: fan-in 45, less than 46"
    assert quantize.prepare(model, "xnor", IMAGES, ("tiny",), min_fan_in=0)[6].threshold is None
    assert not any(row.warning for row in quantize.plan(model, "xnor", min_fan_in=0))
    with pytest.raises(ValueError, match="min_fan_in is -1; it must be 0"):
        quantize.plan(model, "xnor", min_fan_in=-1)


class SqueezeExcite(nn.Module):
    def __init__(self, linear: bool):
        super().__init__()
        self.linear = linear
        self.reduce, self.expand = (
            (nn.Linear(64, 48), nn.Linear(48, 64)) if linear else (nn.Conv2d(64, 48, 1), nn.Conv2d(48, 64, 1))
        )

    def forward(self, x):
        gate = x.mean((2, 3), keepdim=not self.linear)
        gate = torch.sigmoid(self.expand(F.silu(self.reduce(gate))))
        return x * (gate[:, :, None, None] if self.linear else gate)


@pytest.mark.parametrize("linear", [False, True])
def test_squeeze_and_excitation_is_tiny_whatever_its_fan_in(linear):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), SqueezeExcite(linear), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 2, 1))
    plan = quantize.plan(model, "xnor", IMAGES)
    assert [row.name for row in plan if row.warning] == ["1.reduce", "1.expand"]
    assert plan["1.expand"].warning == "gates channels"
    assert quantize.plan(model, "xnor", IMAGES, ("first", "last", "tiny")).binary == ["2"]


def test_a_gated_linear_unit_is_no_squeeze_and_excitation():
    class GLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return self.value(x) * torch.sigmoid(self.gate(x))

    model = nn.Sequential(nn.Linear(64, 64), GLU(), nn.Linear(64, 2))
    assert not any(row.warning for row in quantize.plan(model, "xnor", torch.randn(4, 64)))


# Shortcuts


class Residual(nn.Module):
    def __init__(self, shortcut: nn.Module, body: nn.Module):
        super().__init__()
        self.shortcut, self.body = shortcut, body

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.body(x))


def residual(shortcut: nn.Module, body: nn.Module | None = None) -> nn.Sequential:
    body = body or nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Residual(shortcut, body), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize(
    "model",
    [
        residual(nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8))),
        residual(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))),
        residual(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 3, 2, 1)),  # Bi-Real Net: a shortcut round one convolution
    ],
    ids=["resnet", "resnet_d", "bireal"],
)
def test_downsample_is_found_by_its_place(model):
    plan = quantize.plan(model, "xnor", IMAGES, ("first", "last", "downsample"))
    found = [row.name for row in plan if row.reason == "downsample: alone on a shortcut"]
    assert len(found) == 1
    assert found[0].startswith("1.shortcut")
    assert len(plan.binary) == len(plan) - 3


@pytest.mark.parametrize(
    "model",
    [
        residual(nn.MaxPool2d(2)),
        residual(nn.Conv2d(8, 8, 3, 2, 1)),  # a convolution in parallel, not a projection
        residual(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)),  # neither is the shortcut of the other
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)),
    ],
    ids=["pooled", "3x3", "twins", "chain"],
)
def test_downsample_leaves_other_layers_alone(model):
    plan = quantize.plan(model, "xnor", IMAGES, ("first", "last", "downsample"))
    assert not any(row.reason.startswith("downsample") for row in plan)


def test_downsample_of_stock_residual_networks():
    plan = quantize.plan(torchvision.models.resnet18(), "xnor", torch.randn(2, 3, 32, 32), "downsample")
    assert plan.kept_float == [f"layer{i}.0.downsample.0" for i in (2, 3, 4)]


def test_downsample_needs_a_run():
    with pytest.raises(ValueError, match="keep_float 'downsample' needs an example_input"):
        quantize.plan(torchvision.models.resnet18(), "xnor", keep_float=("downsample",))


# Weights that no layer of the model multiplies by


class RawProduct(nn.Module):
    """Two matrices, one of them hidden in a slice and a transposition; a table that is only added."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(12, 8))
        self.einsum = nn.Parameter(torch.randn(8, 8))
        self.position = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        return torch.einsum("nlc,cd->nld", (x + self.position) @ self.matrix[:8].T, self.einsum)


def attention_model() -> nn.Sequential:
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    return nn.Sequential(nn.Linear(8, 8), SelfAttention(8, 2, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 2))


def recurrent_model() -> nn.Sequential:
    recurrent = nn.Sequential(nn.LSTM(8, 8, batch_first=True), Functional(lambda x: x[0]))
    return nn.Sequential(nn.Linear(8, 8), recurrent, nn.Linear(8, 8), nn.Linear(8, 2))


def bilinear_model() -> nn.Sequential:
    class Squared(nn.Bilinear):
        def forward(self, x):
            return super().forward(x, x)

    return nn.Sequential(nn.Linear(8, 8), Squared(8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


@pytest.mark.parametrize("example", [None, torch.randn(2, 5, 8)], ids=["no_example", "example"])
@pytest.mark.parametrize(
    ("build", "weights", "kept"),
    [
        (attention_model, ["1.in_proj_weight"], ["0", "1.in_proj_weight", "1.out_proj", "3"]),
        (recurrent_model, ["1.0.weight_ih_l0", "1.0.weight_hh_l0"], ["0", "1.0.weight_ih_l0", "1.0.weight_hh_l0", "3"]),
        (bilinear_model, ["1.weight"], ["0", "1.weight", "3"]),
    ],
)
def test_weights_of_other_modules_are_float_with_the_reason(build, weights, kept, example):
    model = build()
    plan = quantize.plan(model, "xnor", example)
    assert plan.binary == ["2"]
    assert plan.kept_float == kept
    for name in weights:
        assert plan[name].reason.endswith("uses it without a layer that could be binary")
        assert plan[name].shape == tuple(model.get_parameter(name).shape)
    assert list(quantize.Plan.from_list(plan.to_list())) == list(plan)
    x = torch.randn(2, 5, 8)
    assert torch.isfinite(quantize.apply_plan(model, plan)(x)).all()


def test_raw_parameters_are_reported_where_they_are_multiplied():
    model = nn.Sequential(nn.Linear(8, 8), RawProduct(), nn.Linear(8, 8), nn.Linear(8, 2))
    plan = quantize.plan(model, "xnor", torch.randn(2, 5, 8))
    assert [row.name for row in plan] == ["0", "1.matrix", "1.einsum", "2", "3"]
    assert plan["1.matrix"].reason == "RawProduct uses it without a layer that could be binary"


def test_a_recurrent_network_has_no_first_layer_behind_its_lstm():
    layers = [nn.Linear(8, size) for size in (8, 8, 2)]
    model = nn.Sequential(nn.LSTM(8, 8), Functional(lambda x: x[0]), *layers)
    assert quantize.plan(model, "xnor", torch.randn(5, 2, 8)).binary == ["2", "3"]


class QueryOnly(nn.Module):
    """Uses the weight of a layer that it also calls, or does not call at all, as Swin and BEiT do."""

    def __init__(self, called: bool):
        super().__init__()
        self.called, self.qkv = called, nn.Linear(8, 8)

    def forward(self, x):
        y = F.linear(x, self.qkv.weight)
        return y + self.qkv(x) if self.called else y


@pytest.mark.parametrize(("called", "ending"), [(False, "without calling it"), (True, "without calling it, too")])
def test_a_weight_that_is_used_outside_its_layer_stays_float(called, ending):
    model = nn.Sequential(nn.Linear(8, 8), QueryOnly(called), nn.Linear(8, 8), nn.Linear(8, 2))
    plan = quantize.plan(model, "xnor", torch.randn(2, 8))
    assert plan["1.qkv"].reason == f"its weight is used {ending}"
    assert plan.binary == ["2"]
    with pytest.raises(ValueError, match="layer '1.qkv' cannot become xnor: its weight is used without calling it"):
        quantize.plan(model, "xnor", torch.randn(2, 8), overrides={"1.qkv": "xnor"})


def test_a_learned_query_is_an_input_and_no_weight():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.q, self.kv = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            keys = self.kv(x)
            return F.scaled_dot_product_attention(self.q(self.query).expand(len(x), 1, 8), keys, keys)

    model = nn.Sequential(nn.Linear(8, 8), Pooling(), nn.Linear(8, 2))
    assert quantize.plan(model, "xnor", torch.randn(2, 5, 8)).binary == ["1.q", "1.kv"]


def test_a_tied_embedding_keeps_its_layer_float():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.a, self.b = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 50)
            self.head.weight = self.tokens.weight

        def forward(self, ids):
            return self.head(self.b(self.a(self.tokens(ids))))

    ids = torch.randint(50, (2, 5))
    for example in (None, ids):
        plan = quantize.plan(Language(), "xnor", example, keep_float=())
        assert plan.binary == ["a", "b"]
        assert plan["head"].reason == "its weight is also that of 'tokens' (Embedding)"


def test_tied_layers_are_binary_together_or_not_at_all():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    model[1].weight = model[2].weight
    assert quantize.plan(model, "xnor").binary == ["1", "2"]
    plan = quantize.plan(model, "xnor", keep_float=("2",))
    assert plan.binary == ["0", "3"]
    assert plan["1"].reason == "it shares its weight with '2', which stays float"
    with pytest.raises(ValueError, match="layer '1' cannot become bwn: it shares its weight with '2'"):
        quantize.plan(model, "xnor", keep_float=("2",), overrides={"1": "bwn"})


def test_an_override_that_contradicts_keep_float():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    with pytest.raises(ValueError, match="keep_float has '1' and overrides makes it 'bwn'; name it in one of the two"):
        quantize.plan(model, "xnor", keep_float=("first", "1"), overrides={"1": "bwn"})
    assert quantize.plan(model, "xnor", keep_float=("1",), overrides={"1": None}).binary == ["0", "2", "3"]
    assert quantize.plan(model, "xnor", keep_float=("[12]",), overrides={"1": "bwn"}).binary == ["0", "1", "3"]


# Whole models, a sample of what tools/sweep_models.py runs

SAMPLE = {
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/squeezenet1_1": 64,
    "timm/test_byobnet": 64,
    "timm/test_efficientnet": 64,
    "timm/test_nfnet": 64,
    "timm/test_resnet": 64,
    "timm/test_vit": 160,
    "timm/test_convnext": 64,
    "timm/test_mambaout": 64,
}


@pytest.mark.parametrize("name", SAMPLE)
def test_stock_models_train_and_are_counted(name):
    library, _, model_name = name.partition("/")
    if library == "timm":
        model = timm.create_model(model_name, pretrained=False)
    else:
        model = torchvision.models.get_model(model_name, weights=None)
    x = torch.randn(2, 3, SAMPLE[name], SAMPLE[name])
    prepared = quantize.prepare(model, "xnor", x)
    assert prepared.state_dict().keys() >= model.state_dict().keys()
    prepared.train()(x).square().mean().backward()
    binary = {n: m for n, m in prepared.named_modules() if isinstance(m, quantize.BinaryLayer)}
    assert len(binary) == len(quantize.plan(model, "xnor", x).binary) > 0
    for layer_name, layer in binary.items():
        assert layer.weight.grad.isfinite().all(), layer_name
    cost = quantize.summary(prepared.eval(), x)
    assert cost.binary_macs > cost.macs
    assert cost.packed_bytes < cost.float_bytes
    restored = quantize.restore(prepared).eval()
    model.load_state_dict(restored.state_dict())
    torch.testing.assert_close(restored(x), model.eval()(x))
