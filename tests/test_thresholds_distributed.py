"""Pending thresholds under DistributedDataParallel: every rank settles on the same values."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import quantize


def _train_one_step(rank: int, folder: str, runs: dict[str, list[torch.Tensor]]) -> None:
    """Each run's state and gradient after one backward pass, written to ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, batches in runs.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        model = quantize.prepare(model, "xnor", keep_float=())
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(batches[rank]).square().sum().backward()
        results[name] = {"state": model.state_dict(), "grads": [p.grad for p in model.parameters()]}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_agree(tmp_path):
    nonnegative = [torch.rand(8, 3), torch.rand(4, 3)]
    signed = [torch.rand(8, 3), torch.randn(64, 3)]
    mp.spawn(_train_one_step, args=(str(tmp_path), {"nonnegative": nonnegative, "signed": signed}), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    settled = {name: run["state"]["0.threshold"] for name, run in first.items()}
    torch.testing.assert_close(settled["nonnegative"], torch.cat(nonnegative).mean(0))
    assert settled["signed"].tolist() == [0, 0, 0]  # rank 0 alone would have seen no negative value
