"""The incremental search of the paper's appendix E: what is to run next and what is chosen, from validation AUCs alone.

Steps of a loss at a class ratio: its own parameter (baseline); with that fixed, (mu0, rho) at the first delta; with
those fixed, delta. Everything here is a function of the plan and of the validation AUCs of finished members.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prostate_alm.experiments.plan import Plan, Task, pair_as_name
from prostate_alm.results.run_folder import member_name

Arm = Literal["baseline", "alm"]
ARMS: tuple[Arm, Arm] = ("baseline", "alm")
"""Trained with the loss alone, or with the constraint beside it."""

Look = Callable[[Path], "float | Literal['failed'] | None"]
"""Validation AUC of a member's folder, relative to the root; "failed" when it failed; None while it is not finished."""

RULE = "the most finished members, then the highest mean validation AUC over them, then the first declared"
"""How a candidate is chosen; where every member finished it is the paper's rule."""


@dataclass(frozen=True)
class Cell:
    """A loss at a class ratio of a pair of classes, or of all with a critical one.

    `pair` is None for a cohort, which has two classes only.
    """

    pair: Task | None
    ratio: int
    loss: str


@dataclass(frozen=True)
class Candidate:
    """One set of parameters; `folder`, relative to the root, holds its members; `overrides` are bundle settings."""

    folder: Path
    parameters: Mapping[str, float]
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """How a candidate did on validation: mean AUC over its finished members, None when there is none."""

    candidate: Candidate
    finished: tuple[int, ...]
    auc_mean: float | None


@dataclass(frozen=True)
class PendingMember:
    """One training that is still to be done."""

    folder: Path
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class SearchStep:
    """A step of the search; `chosen` is None while a member is missing or none finished."""

    searched: tuple[str, ...]
    scores: tuple[Score, ...]
    missing: tuple[PendingMember, ...]
    chosen: Score | None

    @property
    def known(self) -> Candidate | None:
        """The candidate that the next step builds on; a sole candidate is known before it has run."""
        if len(self.scores) == 1:
            return self.scores[0].candidate
        return self.chosen.candidate if self.chosen else None


@dataclass(frozen=True)
class Side:
    """The search of one entry of the tables, baseline or with the constraint, as far as it has come.

    `folder`, relative to the root, is where the ensemble of the chosen candidate goes; `steps` lacks those that cannot
    be known yet.
    """

    folder: Path
    steps: tuple[SearchStep, ...]
    is_whole: bool

    @property
    def chosen(self) -> Score | None:
        """The candidate of the last step that was chosen, None while the search goes on."""
        return self.steps[-1].chosen if self.is_whole else None

    @property
    def missing(self) -> tuple[PendingMember, ...]:
        """Trainings of the known steps that are to be done."""
        return tuple(run for step in self.steps for run in step.missing)


@dataclass(frozen=True)
class CellState:
    """How far a cell has come; `alm` is None where the loss is a baseline only."""

    cell: Cell
    baseline: Side
    alm: Side | None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Baseline, and ALM where there is one."""
        return (self.baseline, self.alm) if self.alm else (self.baseline,)


def cells(plan: Plan) -> Iterator[Cell]:
    """Yield the cells of a plan in the order in which they are run."""
    for pair in plan.tasks:
        for ratio in plan.ratios:
            for loss in plan.losses:
                yield Cell(pair, ratio, loss)


def side_folder(plan: Plan, cell: Cell, *, arm: Arm) -> Path:
    """Return the folder of an ensemble relative to the root: `cifar10-0-1/1-9/a_fl-alm`, `prostate/1-8/bce-alm`."""
    experiment = plan.dataset if cell.pair is None else f"{plan.dataset}-{pair_as_name(cell.pair)}"
    return Path(experiment, f"1-{cell.ratio}", f"{cell.loss}-{arm}")


def search(plan: Plan, cell: Cell, *, look: Look) -> CellState:
    """Return how far the search of a cell has come.

    Args:
        plan: the plan.
        cell: one of its cells.
        look: finds a member's validation AUC by its folder; nothing else of a result is ever seen here.
    """
    loss_step = _step(plan, _loss_candidates(plan, cell), searched=tuple(plan.losses[cell.loss]), look=look)
    baseline = Side(side_folder(plan, cell, arm="baseline"), (loss_step,), is_whole=True)
    if not plan.has_alm(cell.loss):
        return CellState(cell, baseline, None)
    return CellState(cell, baseline, _alm_side(plan, cell, base=loss_step.known, look=look))


def _alm_side(plan: Plan, cell: Cell, *, base: Candidate | None, look: Look) -> Side:
    folder = side_folder(plan, cell, arm="alm")
    if base is None:
        return Side(folder, (), is_whole=False)
    first = plan.alm.delta[0]
    penalties = [_alm_candidate(plan, folder, base, mu0=mu0, rho=rho, delta=first) for mu0, rho in plan.alm.mu0_rho]
    penalty_step = _step(plan, penalties, searched=("mu0", "rho"), look=look)
    best = penalty_step.known
    if best is None:
        return Side(folder, (penalty_step,), is_whole=False)
    mu0, rho = best.parameters["mu0"], best.parameters["rho"]
    margins = [_alm_candidate(plan, folder, base, mu0=mu0, rho=rho, delta=delta) for delta in plan.alm.delta]
    return Side(folder, (penalty_step, _step(plan, margins, searched=("delta",), look=look)), is_whole=True)


def _loss_candidates(plan: Plan, cell: Cell) -> list[Candidate]:
    folder = side_folder(plan, cell, arm="baseline")
    all_parameters = plan.loss_candidates(cell.loss, cell.ratio)
    common = {
        **plan.settings,
        **_of_task(cell),
        "loss": cell.loss,
        "seed": plan.seed,
        "alm": False,
    }
    return [
        Candidate(
            _candidate_folder(folder, parameters, alone=len(all_parameters) == 1),
            parameters,
            common | {"loss_parameters": parameters},
        )
        for parameters in all_parameters
    ]


def _of_task(cell: Cell) -> dict[str, int]:
    if cell.pair is not None and len(cell.pair) == 1:
        return {"critical": cell.pair[0], "imbalance": cell.ratio}
    return {**dict(zip(("majority", "minority"), cell.pair or (), strict=False)), "ratio": cell.ratio}


def _alm_candidate(plan: Plan, folder: Path, base: Candidate, *, mu0: float, rho: float, delta: float) -> Candidate:
    parameters = {"mu0": mu0, "rho": rho, "delta": delta}
    alone = len(plan.alm.mu0_rho) * len(plan.alm.delta) == 1
    # the candidates of one loss parameter must not be taken for those of another, which a retried failure may choose
    of_base = f"{base.folder.name}-" if base.folder.parent.name == "candidates" else ""
    where = _candidate_folder(folder, parameters, alone=alone and not of_base, prefix=of_base)
    return Candidate(where, parameters, {**base.overrides, **parameters, "alm": True})


def _candidate_folder(folder: Path, parameters: Mapping[str, float], *, alone: bool, prefix: str = "") -> Path:
    """Return `folder` for a sole candidate, else e.g. `folder/candidates/margin-0.5`."""
    name = prefix + "-".join(f"{key}-{value:g}" for key, value in parameters.items())
    return folder if alone else folder / "candidates" / name


def _step(plan: Plan, candidates: list[Candidate], *, searched: tuple[str, ...], look: Look) -> SearchStep:
    scores, missing = [], []
    for candidate in candidates:
        folders = {member: candidate.folder / member_name(member) for member in range(plan.members)}
        found = {member: look(folder) for member, folder in folders.items()}
        aucs = {member: auc for member, auc in found.items() if isinstance(auc, float)}
        missing += [
            PendingMember(folders[member], {**candidate.overrides, "member": member})
            for member, auc in found.items()
            if auc is None
        ]
        scores.append(Score(candidate, tuple(aucs), math.fsum(aucs.values()) / len(aucs) if aucs else None))
    chosen = None if missing else best_of(scores)
    return SearchStep(searched, tuple(scores), tuple(missing), chosen)


def best_of(scores: list[Score]) -> Score | None:
    """Return the score chosen by `RULE`; None when no candidate has a finished member."""
    finished = [(len(score.finished), score.auc_mean, score) for score in scores if score.auc_mean is not None]
    return max(finished, key=lambda one: one[:2])[2] if finished else None  # max keeps the first of equals


def runs_to_do(states: list[CellState]) -> list[PendingMember]:
    """Return all trainings whose settings are known by now, each folder once, in the order of the cells."""
    runs = (run for state in states for side in state.sides for run in side.missing)
    return list({run.folder: run for run in runs}.values())


def runs_finished(states: list[CellState]) -> int:
    """Return how many trainings of the known steps are finished, each folder once."""
    scores = (score for state in states for side in state.sides for step in side.steps for score in step.scores)
    return sum({score.candidate.folder: len(score.finished) for score in scores}.values())


def runs_in_all(plan: Plan) -> int:
    """Return how many trainings a plan takes: the first delta is searched together with (mu0, rho)."""
    with_alm = len(plan.alm.mu0_rho) + len(plan.alm.delta) - 1
    return plan.members * sum(
        len(plan.loss_candidates(cell.loss, cell.ratio)) + with_alm * plan.has_alm(cell.loss) for cell in cells(plan)
    )
