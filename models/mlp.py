"""A multi-layer perceptron for 28x28 digits: 784-4096-4096-4096-10 by default.

Courbariaux et al., *Binarized Neural Networks*, 2016. All layers but the last are made binary. Layouts:
"float" and "weights" have a ReLU after each batch norm; in "binary" the sign takes its place.
"""

from torch import Tensor, nn

from .layers import InputDropout
from .registry import register_model

SIZE = 28


class Hidden(nn.Module):
    """[sign -> dropout] -> linear -> batch norm -> [ReLU]: (N, in_features) -> (N, out_features)."""

    def __init__(self, in_features, out_features, dropout, relu):
        super().__init__()
        self.dropout = InputDropout(dropout)
        self.fc = nn.Linear(in_features, out_features, bias=False)  # batch norm has the bias
        self.bn = nn.BatchNorm1d(out_features)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.dropout(x, self.fc)))


class MLP(nn.Module):
    """(N, in_chans, 28, 28) -> (N, num_classes).

    Args:
        width: units of a hidden layer.
        hidden: number of hidden layers.
        dropout: share of a layer's input that is dropped, the image excepted.
        layout: "float", "weights" or "binary", see the module's docstring.
    """

    def __init__(self, num_classes=10, in_chans=1, layout="float", width=4096, hidden=3, dropout=0.5):
        super().__init__()
        for option, value in (("width", width), ("hidden", hidden)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{option} is {value!r}; it must be a whole number of at least 1")
        self.in_chans = in_chans
        features = in_chans * SIZE**2
        self.layers = nn.Sequential()
        for i in range(hidden):
            block = Hidden(width if i else features, width, dropout if i else 0.0, relu=layout != "binary")
            self.layers.add_module(f"hidden{i + 1}", block)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1:] != (self.in_chans, SIZE, SIZE):
            expected = f"{self.in_chans}x{SIZE}x{SIZE}"
            raise ValueError(f"mlp takes images of {expected}, got an input of shape {tuple(x.shape)}")
        return self.fc(self.dropout(self.layers(x.flatten(1))))


@register_model("mlp", input_size=(1, SIZE, SIZE), extra_layouts=("weights",), keep_float=("last",))
def mlp(num_classes=10, in_chans=1, layout="float", width=4096, hidden=3, dropout=0.5):
    return MLP(num_classes, in_chans, layout, width, hidden, dropout)
