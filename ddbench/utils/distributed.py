"""The processes of one launch (`accelerate launch -m ddbench run ...`), usually one, and the choice of the device.

All processes run the same code on the same random draws; each computes its shard, and the lead alone writes. A single
process needs no torch.
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

PATIENCE = timedelta(days=7)  # the others wait while the lead does work that is not shared


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a launch.

    rank: number of this process; 0 is the lead.
    size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_lead(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """The slice of a sequence that this process computes."""
        return slice(self.rank, None, self.size)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all of them get the same bits."""
        if self.size > 1:
            import torch

            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def all_gather(self, items: list) -> list:
        """Return the whole list in every process, from the items that each computed for its `shard`."""
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
        """Return the lead's value in every process; the others wait for it."""
        box = [value]
        if self.size > 1:
            import torch

            torch.distributed.broadcast_object_list(box)
        return box[0]


SINGLE_PROCESS = ProcessGroup()


def process_group(cpu: bool = False) -> ProcessGroup:
    """Return the processes of this launch; the first call sets them up. cpu: use the CPU where there are GPUs too."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return ProcessGroup(state.process_index, state.num_processes)


def device(name: str, gpu_memory: float | None = None) -> torch.device:
    """Return the device for "auto" (CUDA if there is any), "cpu", "cuda" or "cuda:1"; UserError if it does not exist.

    gpu_memory: GiB of a GPU that torch may hold in this process, from now on; above that it is out of memory.

    Each of several processes of a launch has its own current GPU; "cuda:1" would be the same for all of them.
    """
    import torch

    if "," in name:
        raise UserError(f"--device {name}: one process uses one device; several are for commands with --jobs")
    if ":" in name and process_group().size > 1:
        raise UserError(
            f"--device {name}: {process_group().size} processes would share it; --device auto gives each its own"
        )
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(automatic if name == "auto" else name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name}; CUDA devices: {torch.cuda.device_count()}; try --device auto")
    if gpu_memory is not None and chosen.type == "cuda":
        share = gpu_memory * 2**30 / torch.cuda.get_device_properties(chosen).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), chosen)
    return chosen
