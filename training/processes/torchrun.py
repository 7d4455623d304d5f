"""What torchrun's own process remembers between the starts of those that it starts."""

import os

import torch.distributed as dist


def torchrun_store() -> dist.Store | None:
    """A store that lives as long as torchrun does, or None where torchrun has not started this process."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"xnorkit/{os.environ['TORCHELASTIC_RUN_ID']}", store)


def read(store: dist.Store, key: str) -> str | None:
    """The value of ``key``; None where it has none."""
    return store.get(key).decode() if store.check([key]) else None
