"""Checkpoints and ONNX files without a training run."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

import models
import quantize
from quantize.scheme import preferred_layouts
from training import TrainConfig
from training.checkpoint import save_checkpoint
from training.data import get_preset, load_data

DIGITS = [str(i) for i in range(10)]


def prepared(arch: str, x: torch.Tensor, scheme: str | None = None) -> tuple[nn.Module, quantize.Plan]:
    """A network with random weights, its layers binary with ``scheme`` or the one of its name, and the plan."""
    net = models.create_model(arch, in_chans=x.shape[1], schemes=preferred_layouts())
    plan = quantize.plan(net, scheme or models.resolve(arch, preferred_layouts()).scheme, x)
    return quantize.apply_plan(net, plan), plan


def write_checkpoint(path: Path, arch: str, model: nn.Module, plan, input_size, dataset="digits", **changed) -> Path:
    """The checkpoint of a run of one epoch, without what only training needs."""
    contents = {
        "arch": arch,
        "scheme": None if plan is None else "xnor",
        "plan": None if plan is None else plan.to_list(),
        "model": model.state_dict(),
        "classes": DIGITS,
        "input_size": tuple(input_size),
        "normalization": get_preset(dataset, input_size[0])._asdict(),
        "config": {"dataset": dataset},
        "epoch": 1,
        "acc1": 10.0,
        "versions": {},
    }
    save_checkpoint(path, contents | changed)
    return path


def trained_lightly(arch: str, dataset: str, data_dir: str, steps: int) -> tuple[nn.Module, quantize.Plan]:
    """A grey 28x28 network after ``steps`` of 100 images each, in evaluation mode, and its plan."""
    config = TrainConfig.create(dataset=dataset, data_dir=data_dir, augment="none", batch_size=100)
    loader = load_data(config, (1, 28, 28), torch.device("cpu")).train
    model, plan = prepared(arch, next(iter(loader))[0])
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for images, labels in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval(), plan


def write_linear(path: Path, weight: np.ndarray, shape=("N", 1, 8, 8), inputs=1, **metadata) -> str:
    """An ONNX file whose outputs are ``flattened image @ weight``; metadata as JSON, text as it is."""
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)]
    nodes = [helper.make_node("Flatten", ["x0"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", weight.shape[1]))]
    tensors = [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.astype(np.float32).ravel())]
    graph = helper.make_graph(nodes, "linear", values, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, texts)
    onnx.save(model, path)
    return str(path)
