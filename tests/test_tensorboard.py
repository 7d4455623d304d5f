"""TensorBoard itself, started on a finished run, shows its curves."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from tiny_runs import epochs_of, train

from training.runlog import read_log


class Server:
    """A TensorBoard process and its HTTP interface."""

    def __init__(self, logdir):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
        command += ["--port", "0", "--load_fast", "false", "--reload_interval", "1"]
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

    def wait_for(self, path, ready):
        """The reply once it is ready: the files are read after the server has started."""
        for _ in range(600):
            if ready(reply := self.get(path)):
                return reply
            time.sleep(0.1)
        raise RuntimeError(f"TensorBoard never had {path}")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("runs")
    train(logdir / "first", epochs=3, lr=0.01)
    return logdir / "first"


@pytest.fixture(scope="module")
def server(run_dir):
    server = Server(run_dir.parent)
    try:
        server.wait_for("plugin/scalars/tags", lambda runs: "best_acc1" in runs.get("first", {}))
        yield server
    finally:
        server.close()


def test_one_run_and_its_curves(server, run_dir):
    tags = server.get("plugin/scalars/tags")
    assert list(tags) == ["first"]  # hyperparameters open no second run
    flips = {"flip_rate/2", "flip_rate/5"}
    assert set(tags["first"]) == flips | {
        "best_acc1",
        "images_per_second",
        "loss/test",
        "loss/train",
        "lr",
        "top1/test",
        "top1/train",
    }


def test_curves_equal_the_log(server, run_dir):
    epochs = epochs_of(run_dir)
    for part in ("train", "test"):
        for tag, key in (("loss", "loss"), ("top1", "top1")):
            points = server.get("plugin/scalars/scalars", run="first", tag=f"{tag}/{part}")
            assert [(step, pytest.approx(value, rel=1e-6)) for _, step, value in points] == [
                (entry["epoch"], entry[part][key]) for entry in epochs
            ]
    rates = server.get("plugin/scalars/scalars", run="first", tag="lr")
    assert [value for *_, value in rates] == pytest.approx([entry["lr"] for entry in epochs])
    speed = server.get("plugin/scalars/scalars", run="first", tag="images_per_second")
    trained = [entry["train"] for entry in read_log(run_dir) if entry["kind"] == "epoch"]
    assert [v for *_, v in speed] == pytest.approx([t["images"] / t["seconds"] for t in trained], rel=1e-5)
    for layer in ("2", "5"):
        flips = [v for *_, v in server.get("plugin/scalars/scalars", run="first", tag=f"flip_rate/{layer}")]
        assert len(flips) == 3
        assert 0 < flips[0] < 0.5


def test_latent_weights_are_histograms(server):
    assert set(server.get("plugin/histograms/tags")["first"]) == {"weight/2", "weight/5"}
    points = server.get("plugin/histograms/histograms", run="first", tag="weight/2")
    assert [step for _, step, _ in points] == [1, 2, 3]
    assert sum(count for *_, count in points[0][2]) == 16 * 8 * 9  # a weight each


def test_hyperparameters_lead_to_the_accuracy(server, run_dir):
    result = read_log(run_dir)[-1]
    query = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 10}
    columns = {"colParams": [{"metric": {"group": "", "tag": "best_acc1"}, "order": "ORDER_DESC"}]}
    (group,) = server.get("plugin/hparams/session_groups", body={**query, **columns})["sessionGroups"]
    assert group["hparams"]["arch"] == "tiny_xnornet"
    assert group["hparams"]["scheme"] == "xnor"
    assert group["hparams"]["lr"] == 0.01
    (metric,) = [m for m in group["metricValues"] if m["name"]["tag"] == "best_acc1"]
    assert metric["value"] == pytest.approx(result["best_acc1"], rel=1e-6)
