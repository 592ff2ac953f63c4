from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.experiments.grid import (
    Cell,
    CellState,
    Look,
    cells,
    runs_finished,
    runs_in_all,
    runs_to_do,
    search,
)
from prostate_alm.experiments.plan import Plan

PLAN = Plan.model_validate(
    {
        "name": "small",
        "bundle": "train.json",
        "dataset": "cifar10",
        "pairs": [[0, 1]],
        "ratios": [9],
        "losses": {"a_ml": {"margin": [0.1, 0.5, 2]}, "bce": {}, "mbauc": {}},
        "baseline_only": ["mbauc"],
        "alm": {"mu0_rho": [[0.2, 3], [0.3, 2]], "delta": [1.0, 1.5, 2.0]},
        "members": 2,
        "seed": 5,
        "settings": {"alm_epochs": 7},
    }
)
A_ML, BCE, MBAUC = cells(PLAN)
BASE, ALM = "cifar10-0-1/1-9/a_ml-baseline", "cifar10-0-1/1-9/a_ml-alm"


def on_disk(aucs: Mapping[str, Any]) -> Look:
    """Members of each candidate by the end of its folder; a list has one entry for each member."""

    def look(folder: Path) -> Any:
        for candidate, found in aucs.items():
            if folder.parent.as_posix().endswith(candidate):
                return found[int(folder.name[-2:])] if isinstance(found, list) else found
        return None

    return look


def state(aucs: Mapping[str, Any], cell: Cell = A_ML) -> CellState:
    return search(PLAN, cell, look=on_disk(aucs))


def folders(state: CellState) -> list[str]:
    return [run.folder.as_posix() for run in runs_to_do([state])]


BASELINES = {"margin-0.1": 0.8, "margin-0.5": 0.9, "margin-2": 0.7}
PENALTIES = {"mu0-0.2-rho-3-delta-1": 0.91, "mu0-0.3-rho-2-delta-1": 0.92}


def test_first_only_the_losss_own_parameter_is_searched() -> None:
    expected = [f"{BASE}/candidates/margin-{m}/member-{i:02d}" for m in ("0.1", "0.5", "2") for i in range(2)]
    assert folders(state({})) == expected


def test_nothing_goes_on_while_a_member_of_a_candidate_is_missing() -> None:
    half = state(BASELINES | {"margin-2": [0.99, None]})
    assert half.baseline.chosen is None
    assert folders(half) == [f"{BASE}/candidates/margin-2/member-01"]


def test_then_mu0_and_rho_with_the_chosen_parameter_and_the_first_delta() -> None:
    second = state(BASELINES)
    assert second.baseline.chosen is not None
    assert second.baseline.chosen.candidate.parameters == {"margin": 0.5}
    runs = runs_to_do([second])
    assert [(r.overrides["mu0"], r.overrides["rho"], r.overrides["delta"]) for r in runs[::2]] == [
        (0.2, 3, 1),
        (0.3, 2, 1),
    ]
    assert all(run.overrides["loss_parameters"] == {"margin": 0.5} for run in runs)
    assert all(run.folder.as_posix().startswith(f"{ALM}/candidates/margin-0.5-mu0-") for run in runs)


def test_then_delta_with_the_chosen_mu0_and_rho_and_the_first_delta_is_not_run_again() -> None:
    third = state(BASELINES | PENALTIES)
    runs = runs_to_do([third])
    settings = [(r.overrides["mu0"], r.overrides["rho"], r.overrides["delta"]) for r in runs[::2]]
    assert settings == [(0.3, 2, 1.5), (0.3, 2, 2.0)]
    assert third.alm is not None
    assert third.alm.chosen is None


def test_the_last_choice_is_the_best_delta() -> None:
    last = state(BASELINES | PENALTIES | {"rho-2-delta-1.5": 0.95, "rho-2-delta-2": 0.9})
    assert folders(last) == []
    assert last.alm is not None
    assert last.alm.chosen is not None
    assert last.alm.chosen.candidate.parameters == {"mu0": 0.3, "rho": 2, "delta": 1.5}
    assert last.alm.chosen.auc_mean == 0.95


def test_the_overrides_are_those_of_the_bundle() -> None:
    baseline = runs_to_do([state({})])[3]
    common = {"majority": 0, "minority": 1, "ratio": 9, "loss": "a_ml", "seed": 5, "alm_epochs": 7, "member": 1}
    assert baseline.overrides == common | {"alm": False, "loss_parameters": {"margin": 0.5}}
    constrained = runs_to_do([state(BASELINES)])[1]
    searched = {"mu0": 0.2, "rho": 3, "delta": 1}
    assert constrained.overrides == common | searched | {"alm": True, "loss_parameters": {"margin": 0.5}}


def test_a_loss_without_candidates_is_searched_for_the_constraint_at_once() -> None:
    names = {Path(folder).parent.as_posix() for folder in folders(state({}, BCE))}
    assert names == {
        "cifar10-0-1/1-9/bce-baseline",
        "cifar10-0-1/1-9/bce-alm/candidates/mu0-0.2-rho-3-delta-1",
        "cifar10-0-1/1-9/bce-alm/candidates/mu0-0.3-rho-2-delta-1",
    }


def test_a_baseline_only_loss_has_no_constrained_side() -> None:
    assert state({}, MBAUC).alm is None
    assert state({"mbauc-baseline": 0.9}, MBAUC).baseline.chosen is not None


@pytest.mark.parametrize(
    ("aucs", "chosen"),
    [
        ({"margin-0.1": 0.9, "margin-0.5": 0.9, "margin-2": 0.9}, 0.1),
        ({"margin-0.1": 0.8, "margin-0.5": 0.9, "margin-2": 0.9}, 0.5),
        ({"margin-0.1": [0.9, 0.6], "margin-0.5": [0.8, 0.8], "margin-2": [1.0, 0.5]}, 0.5),  # the mean counts
        ({"margin-0.1": [0.1, 0.2], "margin-0.5": [0.2, 0.1], "margin-2": [0.1, 0.2]}, 0.1),  # equal in any order
        ({"margin-0.1": 0.8, "margin-0.5": [0.99, "failed"], "margin-2": 0.7}, 0.1),
        ({"margin-0.1": "failed", "margin-0.5": "failed", "margin-2": [0.1, "failed"]}, 2),
    ],
)
def test_the_choice(aucs: dict[str, Any], chosen: float) -> None:
    best = state(aucs).baseline.chosen
    assert best is not None
    assert best.candidate.parameters == {"margin": chosen}


def test_a_cell_whose_members_all_failed_ends_without_a_choice() -> None:
    failed = state(dict.fromkeys(BASELINES, "failed"))
    assert failed.baseline.chosen is None
    assert folders(failed) == []


def simulate(plan: Plan, auc: Callable[[Path], Any]) -> tuple[list[list[Path]], list[CellState]]:
    """Run phase after phase until nothing is left to do."""
    done: dict[Path, Any] = {}
    phases = []
    while True:
        states = [search(plan, cell, look=done.get) for cell in cells(plan)]
        runs = runs_to_do(states)
        if not runs:
            return phases, states
        phases.append([run.folder for run in runs])
        done |= {run.folder: auc(run.folder) for run in runs}


def test_every_training_is_run_once_and_their_number_is_known_before() -> None:
    phases, states = simulate(PLAN, lambda folder: len(folder.as_posix()) % 7 / 10)
    folders = [folder for phase in phases for folder in phase]
    assert len(phases) == 3
    assert len(folders) == len(set(folders)) == runs_in_all(PLAN) == runs_finished(states)


def test_a_choice_does_not_depend_on_the_order_in_which_members_finish() -> None:
    aucs = BASELINES | PENALTIES | {"rho-2-delta-1.5": 0.95, "rho-2-delta-2": 0.9}
    together, reordered = state(aucs), state(dict(reversed(aucs.items())))
    assert together == reordered
