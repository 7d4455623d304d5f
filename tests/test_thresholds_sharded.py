"""Pending thresholds under fully_shard: what the first training batch sets stays, in one process and in two."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import quantize

X = torch.rand(16, 4, generator=torch.Generator().manual_seed(6))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)
    return quantize.prepare(nn.Sequential(*layers), "xnor")


def errors(model: nn.Module, folder: str) -> list[str]:
    """What is said of a sharded model where a whole one is needed."""
    calls = (
        lambda: quantize.convert(model, X),
        lambda: quantize.summary(model, X),
        lambda: quantize.export_onnx(model, f"{folder}/net.onnx", X),
        lambda: quantize.restore(model),
        lambda: quantize.prepare(fully_shard(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))), "xnor", X),
    )
    found = []
    for call in calls:
        with pytest.raises(ValueError, match="is sharded") as error:
            call()
        found.append(str(error.value))
    return found


def _train(model: nn.Module, rank: int, processes: int, folder: str) -> dict:
    part = X.chunk(processes)[rank]
    first, second = model(part), model(part)
    first.square().mean().backward()
    found = {
        "outputs": [first.detach(), second.detach()],
        "pending": [model[i].threshold_pending for i in (2, 4)],
        "state": whole_state(model),
        "errors": errors(model, folder),
    }
    torch.optim.SGD(model.parameters(), 0.1).step()
    return {**found, "trained": whole_state(model)}


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {name: tensor.clone() for name, tensor in state.items()}


def _run(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    mesh = dist.init_device_mesh("cpu", (processes,))
    results = []
    for own_shards in ((2, 4), ()):  # of layers, of the network alone
        model = network()
        for layer in own_shards:
            fully_shard(model[layer], mesh=mesh)
        results.append(_train(fully_shard(model, mesh=mesh), rank, processes, folder))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_batch_sets_the_thresholds_of_a_sharded_model(processes, tmp_path):
    mp.spawn(_run, args=(processes, str(tmp_path)), nprocs=processes)
    whole = network()
    output = whole(X)
    settled = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    assert whole[2].threshold.max() > 0
    output.square().mean().backward()
    torch.optim.SGD(whole.parameters(), 0.1).step()
    runs = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)), strict=True)
    for ranks in runs:
        for i in range(2):
            torch.testing.assert_close(torch.cat([rank["outputs"][i] for rank in ranks]), output.detach())
        assert all(rank["pending"] == [False, False] for rank in ranks)
        torch.testing.assert_close(ranks[0]["state"], settled)
        torch.testing.assert_close(ranks[0]["trained"], dict(whole.state_dict()))
        assert all("gather it with torch.distributed.checkpoint.state_dict" in said for said in ranks[0]["errors"][:4])
        assert "prepare the model first, then shard it" in ranks[0]["errors"][4]


def test_a_wrapper_that_would_forget_them_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        for use_orig_params in (False, True):
            model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
            with pytest.raises(RuntimeError, match="give quantize.prepare an example_input"):
                model(X)
    finally:
        dist.destroy_process_group()
