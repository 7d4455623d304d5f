"""The processes that torchrun started for one run: who they are, and what they tell each other.

Without torchrun there is one process, which is the first, and nothing here does anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RunStopped

T = TypeVar("T")

CPU = ("", "cpu", "none", "-1")  # of --gpu
MEETING = "meeting"  # how often the processes of this run have met


def process_count() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


@contextlib.contextmanager
def joined(gpu: str | None) -> Iterator[Callable[[], None]]:
    """Join the other processes of the run, where torchrun started any.

    Gives what parts from them: to be called at the end, but not after an error, when they may wait for this one.

    Args:
        gpu: what ``--gpu`` says. Where it says nothing each process takes the CUDA device of its own number on its
            machine; where there is none, or it says one of ``CPU``, they compute on the CPU.

    Raises ValueError for a device that the processes cannot have, and RunStopped where another process is gone.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield lambda: None
        return
    if gpu not in (None, *CPU) or (gpu is None and torch.backends.mps.is_available()):
        count = os.environ["WORLD_SIZE"]
        raise ValueError(
            f"{count} processes cannot share --gpu {gpu or 'mps'}; leave it out, or give --gpu cpu for the CPU"
        )
    backend = "gloo"
    if gpu is None and torch.cuda.is_available():
        torch.cuda.set_device(own_cuda_device())
        backend = "cpu:gloo,cuda:nccl"
    _meet(backend)
    try:
        yield dist.destroy_process_group
    except RuntimeError as error:
        if not isinstance(error, dist.DistBackendError) and "gloo" not in str(error):
            raise
        raise RunStopped(f"process {rank()} has lost another one, which says why if it could") from error


def _meet(backend: str) -> None:
    """Find the other processes. Where torchrun starts them again, not those that are gone and have left addresses."""
    store = torchrun_store()
    if store is None:
        dist.init_process_group(backend)
        return
    meeting = int(read(store, MEETING) or 0)
    own, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=dist.PrefixStore(f"meeting {meeting}", store), rank=own, world_size=count)
    dist.barrier()  # all are here
    if is_first():
        store.set(MEETING, str(meeting + 1))


def own_cuda_device() -> int:
    """The CUDA device of this process. Raises ValueError where the machine has fewer devices than processes."""
    index, present = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= present:
        raise ValueError(f"process {index} of this machine has no GPU: there are {present}; lower --nproc_per_node")
    return index


def on_first(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises in the first process, in every process."""
    if process_count() == 1:
        return call()
    answer: list[Any] = [None, None]
    if is_first():
        try:
            answer[0] = call()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gather(value: T) -> list[T]:
    """In the first process the ``value`` of each, by rank; in the others nothing."""
    if process_count() == 1:
        return [value]
    values = [None] * process_count() if is_first() else None
    dist.gather_object(value, values)
    return values or []


def own_share(values: list[T]) -> list[T]:
    """What this process takes of what :func:`gather` gave: its own; the first one all, where the number differs."""
    if len(values) == process_count():
        return [values[rank()]]
    return values if is_first() else []


def total(values: Tensor) -> Tensor:
    """The sum of the ``values`` of all processes, in each."""
    if process_count() > 1:
        dist.all_reduce(values)
    return values


def torchrun_store() -> dist.Store | None:
    """A store that lives as long as torchrun does, or None where torchrun has not started this process."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"xnorkit/{os.environ['TORCHELASTIC_RUN_ID']}", store)


def read(store: dist.Store, key: str) -> str | None:
    """The value of ``key``; None where it has none."""
    return store.get(key).decode() if store.check([key]) else None
