"""The processes of one launch (`accelerate launch -m ddbench run ...`), seen from one of them; usually there is one.

All of them run the same code on the same random draws; each computes its share, and the lead alone writes. No torch
where there is one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ddbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATIENCE = timedelta(days=7)  # others wait while the lead makes what is not shared out


@dataclass(frozen=True)
class ProcessGroup:
    """rank: this process, 0 the lead. size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_lead(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """This process's share of anything that can be sliced."""
        return slice(self.rank, None, self.size)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: the same bits in all of them."""
        if self.size > 1:
            import torch

            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def all_gather(self, items: list) -> list:
        """The whole list in every process, from what each made of its `part`."""
        if self.size == 1:
            return items
        import torch

        parts: list = [None] * self.size
        torch.distributed.all_gather_object(parts, items)
        whole: list = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def broadcast(self, value: Any = None) -> Any:
        """The lead's value in every process; the others wait for it."""
        box = [value]
        if self.size > 1:
            import torch

            torch.distributed.broadcast_object_list(box)
        return box[0]


SINGLE_PROCESS = ProcessGroup()


def process_group(cpu: bool = False) -> ProcessGroup:
    """The team of this launch; the process group is made once, by the first call. cpu: also where there are GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return ProcessGroup(state.process_index, state.num_processes)


def device(name: str) -> torch.device:
    """ "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:1"; UserError when there is no such device.

    Several processes of one launch have a GPU each, their current one: "cuda:1" would be the same for all.
    """
    import torch

    if ":" in name and process_group().size > 1:
        raise UserError(
            f"--device {name}: {process_group().size} processes would share it; --device auto gives each its own"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(name)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name}; CUDA devices: {torch.cuda.device_count()}; try --device auto")
    return found
