"""Who leads a group of processes, and what the others are told; a group of two are two processes with gloo."""

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from prostate_alm.training.distributed import is_distributed, is_leader, leader_first, rank_and_size, start

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads that a fork leaves behind


def follow(told: str) -> str:
    return f"followed {told}"


def rank(number: int, folder: Path, lead: Callable[[], str]) -> None:
    """Be one rank of two, and write down what `leader_first` returned or how it ended."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    try:
        found = leader_first(lead, tell=str.upper, follow=follow)
    except (SystemExit, ValueError) as error:
        found = f"{type(error).__name__} {error}"
    (folder / str(number)).write_text(f"{rank_and_size()} {is_leader()} {found}")
    dist.destroy_process_group()


def told_by_both(folder: Path, lead: Callable[[], str]) -> list[str]:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=rank, args=(number, folder, lead)) for number in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    return [(folder / str(number)).read_text() for number in range(2)]


def failing() -> str:
    raise ValueError("the disk is full")


def test_the_others_follow_what_the_leader_tells(tmp_path: Path) -> None:
    assert told_by_both(tmp_path, lambda: "led") == ["(0, 2) True led", "(1, 2) False followed LED"]


def test_the_others_end_with_code_2_where_the_leader_failed(tmp_path: Path) -> None:
    assert told_by_both(tmp_path, failing) == ["(0, 2) True ValueError the disk is full", "(1, 2) False SystemExit 2"]


def test_a_process_alone_leads_itself() -> None:
    assert (is_distributed(), is_leader(), rank_and_size()) == (False, True, (0, 1))
    assert leader_first(lambda: "led", tell=str.upper, follow=follow) == "led"


def test_a_process_that_torchrun_did_not_start_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which `start` replaces
    with pytest.raises(ValueError, match=r"must be run by torchrun, got no RANK in the environment\. Start with: "):
        start()
