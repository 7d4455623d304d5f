"""TensorBoard itself, started on finished runs, shows their curves."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_runs import epochs_of, tiny_flags

import training
from training import engine
from training.watch.runlog import read_log

pytestmark = pytest.mark.core

BINARY = ("2", "5")  # the layers of the tiny network


class Server:
    """A TensorBoard process and its HTTP interface."""

    def __init__(self, logdir, load_fast):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
        command += ["--port", "0", "--load_fast", load_fast, "--reload_interval", "1"]
        environment = {**os.environ, "no_proxy": "127.0.0.1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                self.url = found[0]
                return
        raise RuntimeError("TensorBoard did not start")

    def get(self, path, body=None, **query):
        url = f"{self.url}data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=60) as reply:
            return json.load(reply)

    def curve(self, run, tag):
        """Step -> value."""
        points = self.get("plugin/scalars/scalars", run=run, tag=tag)
        assert len({step for _, step, _ in points}) == len(points)
        return {step: value for _, step, value in points}

    def wait_for(self, **last_steps):
        """Until these steps of these runs have been read, which begins when the server has started."""
        for _ in range(600):
            tags = self.get("plugin/scalars/tags")
            if all(
                "best_acc1" in tags.get(run, {})
                and self.get("plugin/scalars/scalars", run=run, tag="best_acc1")[-1][1] == step
                for run, step in last_steps.items()
            ):
                return
            time.sleep(0.1)
        raise RuntimeError(f"TensorBoard never had {last_steps}")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


class Finished(NamedTuple):
    """A run, and the latent weights of its binary layers before it and after each epoch."""

    run_dir: Path
    weights: dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Three epochs; beside them "resumed", which lost the last two of three and trained them again."""
    logdir = tmp_path_factory.mktemp("runs")
    flags = tiny_flags(logdir / "first", epochs=3, lr=0.01, lr_schedule="step", milestones=(2,))
    session = training.setup(training.config_from_flags(flags))
    weights = {name: [session.model.get_submodule(name).weight.detach().numpy().copy()] for name in BINARY}

    def save_and_copy(session, *args):
        save(session, *args)
        if session.epoch == 1:
            shutil.copy(session.run_dir / "last.pt", logdir / "cut.pt")
        for name, steps in weights.items():
            steps.append(session.model.get_submodule(name).weight.detach().numpy().copy())

    save = engine.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "save", save_and_copy)
        training.fit(session)
    shutil.copytree(logdir / "first", logdir / "resumed")
    shutil.move(logdir / "cut.pt", logdir / "resumed" / "last.pt")
    time.sleep(1)  # the name of a file of events has the second it was made
    flags = {"resume": str(logdir / "resumed"), "epochs": 4, "gpu": ""}
    training.fit(training.setup(training.config_from_flags(flags)))
    return Finished(logdir / "first", weights)


@pytest.fixture(scope="module", params=["auto", "false"])
def server(first, request):
    """With its fast reader, which is its choice where it has one for the system, and with the other."""
    server = Server(first.run_dir.parent, request.param)
    try:
        server.wait_for(first=3, resumed=4)
        yield server
    finally:
        server.close()


def test_one_run_a_directory_and_its_curves(server):
    tags = server.get("plugin/scalars/tags")
    assert set(tags) == {"first", "resumed"}  # hyperparameters open no run of their own
    curves = {f"{name}/{part}" for name in ("loss", "top1") for part in ("train", "test")}
    curves |= {f"health/{n}/{what}" for n in BINARY for what in ("sign_balance", "dead_channels", "saturation")}
    curves |= {f"flip_rate/{n}" for n in BINARY}
    assert set(tags["first"]) == curves | {"best_acc1", "images_per_second", "lr"}


def test_curves_equal_the_log(server, first):
    epochs = epochs_of(first.run_dir)
    for part in ("train", "test"):
        for tag, key in (("loss", "loss"), ("top1", "top1")):
            points = server.curve("first", f"{tag}/{part}")
            assert points == {entry["epoch"]: pytest.approx(entry[part][key], rel=1e-6) for entry in epochs}
    assert server.curve("first", "lr") == pytest.approx({1: 0.01, 2: 0.01, 3: 0.001})
    trained = [entry["train"] for entry in read_log(first.run_dir) if entry["kind"] == "epoch"]
    speed = [t["images"] / t["seconds"] for t in trained]
    assert list(server.curve("first", "images_per_second").values()) == pytest.approx(speed, rel=1e-5)
    tops = [entry["test"]["top1"] for entry in epochs]
    assert list(server.curve("first", "best_acc1").values()) == pytest.approx(np.maximum.accumulate(tops), rel=1e-6)


def test_flip_rates_are_the_signs_that_changed(server, first):
    for name, steps in first.weights.items():
        bits = [w - w.mean(axis=1, keepdims=True) >= 0 for w in steps]  # XNOR-Net takes the sign of centred weights
        rates = {i: pytest.approx((bits[i] != bits[i - 1]).mean(), abs=1e-6) for i in (1, 2, 3)}
        assert server.curve("first", f"flip_rate/{name}") == rates
        assert server.curve("first", f"flip_rate/{name}")[1] > 0


def test_a_resumed_run_has_each_epoch_once(server, first):
    points = server.curve("resumed", "loss/train")
    assert list(points) == [1, 2, 3, 4]
    for step in (1, 2, 3):
        assert points[step] == server.curve("first", "loss/train")[step]


def test_latent_weights_are_histograms(server, first):
    for name, steps in first.weights.items():
        points = server.get("plugin/histograms/histograms", run="first", tag=f"weight/{name}")
        assert [step for _, step, _ in points] == [1, 2, 3]
        for (_, step, bins), weights in zip(points, steps[1:], strict=True):
            assert sum(count for *_, count in bins) == pytest.approx(weights.size), step
            assert bins[0][0] <= weights.min() <= weights.max() <= bins[-1][1]
            assert bins[-1][1] - bins[0][0] < 1.5 * np.ptp(weights)


def test_hyperparameters_lead_to_the_accuracy(server, first):
    result = read_log(first.run_dir)[-1]
    query = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 10}
    columns = {"colParams": [{"metric": {"group": "", "tag": "best_acc1"}, "order": "ORDER_DESC"}]}
    groups = server.get("plugin/hparams/session_groups", body={**query, **columns})["sessionGroups"]
    (group,) = [g for g in groups if g["sessions"][0]["name"] == "first"]
    assert group["hparams"]["arch"] == "tiny_xnornet"
    assert group["hparams"]["scheme"] == "xnor"
    assert group["hparams"]["lr"] == 0.01
    (metric,) = [m for m in group["metricValues"] if m["name"]["tag"] == "best_acc1"]
    assert metric["value"] == pytest.approx(result["best_acc1"], rel=1e-6)
