"""Several processes train one member: who leads, and what the others wait for."""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from prostate_alm.training.command_line import tell_faults_in_lines

T = TypeVar("T")


def start() -> None:
    """Join the process group that torchrun describes in the environment; NCCL with GPUs, gloo without.

    Only the leader, rank 0, goes on logging.

    Raises:
        ValueError: the process was not started by torchrun.
    """
    tell_faults_in_lines()
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ValueError(
            f"multi_gpu_train.json must be run by torchrun, got no {missing[0]} in the environment. "
            "Start with: torchrun --standalone --nproc_per_node=2 -m monai.bundle run training --config_file ..."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if not is_leader():
        logging.getLogger().setLevel(logging.WARNING)


def stop() -> None:
    """Leave the process group, when there is one."""
    if is_distributed():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a group."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def is_leader() -> bool:
    """Whether this process writes files and talks to MLflow."""
    return rank_and_size()[0] == 0


def leader_first(lead: Callable[[], T], *, tell: Callable[[T], str], follow: Callable[[str], T]) -> T:
    """Call `lead` on rank 0 and, when it is done, `follow` on the other ranks with what `tell` makes of its result.

    Raises:
        SystemExit: on the other ranks when `lead` failed; rank 0 raises what `lead` raised and says why.
    """
    message: list[str | None] = [None]
    if not is_leader():
        dist.broadcast_object_list(message)
        if message[0] is None:
            raise SystemExit(2)
        return follow(message[0])
    try:
        result = lead()
        message = [tell(result)]
    finally:
        if is_distributed():
            dist.broadcast_object_list(message)
    return result
