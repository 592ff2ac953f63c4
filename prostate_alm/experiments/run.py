"""Runs a plan: members in several processes, the choice on validation AUC, ensembles; found again after any stop."""

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prostate_alm.experiments.grid import (
    ARMS,
    RULE,
    CellState,
    PendingMember,
    Score,
    SearchStep,
    Side,
    cells,
    runs_finished,
    runs_in_all,
    runs_to_do,
    search,
    side_folder,
)
from prostate_alm.experiments.plan import Plan, start_or_continue
from prostate_alm.experiments.standing import Clock, OnProgress, Standing
from prostate_alm.parallel import Executor
from prostate_alm.results.run_folder import CHECKPOINT, ENSEMBLE, METRICS, RunFolder, member_name
from prostate_alm.training.fanout import MemberTask
from prostate_alm.whole_files import write_text_atomically

SELECTION = "selection.json"

logger = logging.getLogger(__name__)


@dataclass
class ExperimentReport:
    """What a run of an experiment came to.

    Attributes:
        total: members that the plan takes.
        done: those that are finished, in this run or before.
        failures: folder of a member or an ensemble, relative to the root, to one line that says why it failed.
        ensembles: folders of the ensembles that are there now.
    """

    total: int
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    ensembles: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every member of the plan is finished and nothing failed."""
        return self.done == self.total and not self.failures


class ValidationAucs:
    """Finds the validation AUC of members below a root; nothing else of their results is read.

    Args:
        root: folder of the experiment.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, float | Literal["failed"]] = {}

    def __call__(self, folder: Path) -> float | Literal["failed"] | None:
        """Return the AUC of a member's folder, "failed" when that was noted, None while it is not finished."""
        if folder not in self._known:
            run = RunFolder(self._root / folder)
            if not run.is_finished:
                return None
            self._known[folder] = _validation_auc(run)
        return self._known[folder]

    def note_failure(self, folder: Path) -> None:
        """Remember that a member failed, so that the search goes on without it."""
        self._known[folder] = "failed"


def _validation_auc(run: RunFolder) -> float:
    validation = run.read_json(METRICS).get("validation")
    auc = validation.get("auc") if isinstance(validation, dict) else None
    if not isinstance(auc, int | float) or not math.isfinite(auc):
        raise ValueError(f"validation auc must be a number, got {auc!r} in {run.file(METRICS)}. Delete that folder.")
    return float(auc)


def run_experiment(
    plan: Plan,
    root: Path,
    *,
    jobs: int | None = None,
    executor: Executor = "local",
    local_settings: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> ExperimentReport:
    """Run what is missing of a plan; the same call goes on after any stop, and tries again what failed.

    Every phase trains all members whose settings are known by then; an ensemble is evaluated as soon as its members are
    chosen, the constrained one against its baseline.

    Args:
        plan: from `read_plan`.
        root: folder of the experiment; must be new, or have been started with the same plan.
        jobs: largest number of processes; None for what the machine has.
        executor: `local` or `ray`.
        local_settings: settings of the bundle that depend on the machine and change no result, e.g. `dataset_dir`.
        on_progress: called at the start and after each member.

    Raises:
        ValueError: the folder belongs to another plan, the data cannot be used, a setting is not one of the bundle, or
            a result cannot be read.
    """
    local = local_settings or {}
    start_or_continue(plan, root)
    run = _Run(plan, root, on_progress=on_progress or _silent)
    runs = runs_to_do(run.look_at_all())
    if runs:
        ensure_data(plan, {**local, **runs[0].overrides})
    while runs:
        run.train(runs, local, jobs=jobs, executor=executor)
        runs = runs_to_do(run.look_at_all())
    return run.report


def ensure_data(plan: Plan, overrides: Mapping[str, Any]) -> None:
    """Check the settings of the bundle and make or fetch the data, once, before many members need them.

    Ends the process with exit code 2 and one line per fault when a setting breaks its rule.

    Args:
        plan: names the config file.
        overrides: those of one member.

    Raises:
        ValueError: the data cannot be used, or a setting is not one of the bundle.
    """
    from prostate_alm.training.ensemble_training import read_bundle_settings

    read_bundle_settings(plan.bundle, overrides).read_samples()


def _silent(standing: Standing) -> None:
    """Show nothing."""


class _Run:
    """The state of one call of `run_experiment`; everything that outlives it is on disk."""

    def __init__(self, plan: Plan, root: Path, *, on_progress: OnProgress) -> None:
        self._plan, self._root, self._on_progress = plan, root, on_progress
        self._look = ValidationAucs(root)
        self._clock, self._ended = Clock(), 0
        self._cells = {side_folder(plan, cell, arm=arm): cell for cell in cells(plan) for arm in ARMS}
        self.report = ExperimentReport(runs_in_all(plan))

    def look_at_all(self) -> list[CellState]:
        """Find what is on disk, evaluate what can be, and tell how far all is."""
        states = [search(self._plan, cell, look=self._look) for cell in cells(self._plan)]
        self.report.ensembles.clear()  # found again in the order of the cells
        for state in states:
            self._settle(state)
        self.report.done = runs_finished(states)
        self._tell()
        return states

    def train(
        self, runs: list[PendingMember], local: Mapping[str, Any], *, jobs: int | None, executor: Executor
    ) -> None:
        """Train members and evaluate each ensemble when its last member has ended."""
        from prostate_alm.training import fanout

        tasks = {self._root / run.folder: self._task(run, local) for run in runs}
        with closing(fanout.run_tasks(list(tasks.values()), jobs=jobs, executor=executor)) as outcomes:
            for outcome in outcomes:
                folder = outcome.task.output_dir.relative_to(self._root)
                if outcome.failure is not None:
                    self._fail(folder, outcome.failure)
                    self._look.note_failure(folder)
                else:
                    self.report.done += 1
                self._ended += 1
                self._tell()
                self._settle_cell_of(folder)

    def _task(self, run: PendingMember, local: Mapping[str, Any]) -> MemberTask:
        return MemberTask(self._plan.bundle, self._root / run.folder, {**local, **run.overrides})

    def _fail(self, folder: Path, message: str) -> None:
        self.report.failures[folder.as_posix()] = message
        logger.warning("%s failed: %s", folder.as_posix(), message)

    def _tell(self) -> None:
        report = self.report
        failed = sum(Path(folder).name.startswith("member-") for folder in report.failures)
        remaining = max(report.total - report.done - failed, 0)
        left = self._clock.seconds_left(self._ended, remaining)
        self._on_progress(Standing(report.done, failed, report.total, left))

    def _settle_cell_of(self, folder: Path) -> None:
        cell = next(self._cells[parent] for parent in folder.parents if parent in self._cells)
        self._settle(search(self._plan, cell, look=self._look))

    def _settle(self, state: CellState) -> None:
        """Put the chosen members in their place and evaluate the ensembles of a cell, where that can be done by now."""
        baseline = self._ensemble(state.baseline, against=None)
        baseline_is_open = bool(state.baseline.missing)
        if state.alm and not baseline_is_open:
            self._ensemble(state.alm, against=baseline)

    def _ensemble(self, side: Side, *, against: Path | None) -> Path | None:
        """Return the folder of the evaluated ensemble, None while there is none."""
        if side.chosen is None:
            return None
        folder = self._root / side.folder
        install_choice(self._root, side)
        if not _is_up_to_date(folder, side.chosen, baseline=against):
            try:
                _evaluate(folder, baseline=against)
            except (ValueError, OSError) as error:
                self._fail(side.folder, " ".join(str(error).split()) or type(error).__name__)
                return None
        name = side.folder.as_posix()
        self.report.failures.pop(name, None)
        if name not in self.report.ensembles:
            self.report.ensembles.append(name)
        return folder


def _evaluate(folder: Path, *, baseline: Path | None) -> None:
    from prostate_alm.training import ensemble

    ensemble.evaluate_ensemble(folder, baseline=baseline)


def _is_up_to_date(folder: Path, chosen: Score, *, baseline: Path | None) -> bool:
    """Whether the ensemble was made of the chosen members and compared with the baseline as it is now."""
    made = RunFolder(folder).read_json(METRICS)
    if sorted(made.get("members", [])) != list(chosen.finished):
        return False
    if baseline is None:
        return True
    newer = (folder / METRICS).stat().st_mtime_ns >= (baseline / METRICS).stat().st_mtime_ns
    return newer and bool(made.get("against_baseline"))


def install_choice(root: Path, side: Side) -> None:
    """Copy the chosen candidate's members, without checkpoints, to the side's folder and say why in selection.json.

    selection.json is written last and removed first: a copy that was interrupted is made again. The evaluation of
    members that are replaced is removed.

    Args:
        root: folder of the experiment.
        side: a side with a choice.

    Raises:
        ValueError: nothing is chosen yet.
        OSError: the members cannot be copied.
    """
    chosen = side.chosen
    if chosen is None:
        raise ValueError(f"side must have a chosen candidate, got none in {side.folder}. Finish its members first.")
    folder = root / side.folder
    content = selection(side, chosen)
    run = RunFolder(folder)
    if run.read_json(SELECTION) == content:
        return
    run.file(SELECTION).unlink(missing_ok=True)
    run.file(METRICS).unlink(missing_ok=True)
    if chosen.candidate.folder != side.folder:
        _copy_members(root / chosen.candidate.folder, folder, members=chosen.finished)
    write_text_atomically(run.file(SELECTION), json.dumps(content, indent=1) + "\n")


def _copy_members(source: Path, target: Path, *, members: Iterable[int]) -> None:
    """Copy members to an empty place; `ensemble.json` describes the members that were there."""
    (target / ENSEMBLE).unlink(missing_ok=True)
    for earlier in target.glob("member-*"):
        if earlier.is_dir():
            shutil.rmtree(earlier)
    for name in map(member_name, members):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(CHECKPOINT, ".*"))


def selection(side: Side, chosen: Score) -> dict[str, Any]:
    """Return the content of selection.json: all candidates with their mean validation AUC, the chosen one and the rule.

    Args:
        side: a side whose search has ended.
        chosen: its choice.
    """
    overrides = chosen.candidate.overrides
    return {
        "rule": RULE,
        "parameters": {**overrides["loss_parameters"], **chosen.candidate.parameters},
        "validation_auc_mean": chosen.auc_mean,
        "stages": [_step_content(step, side.folder) for step in side.steps],
    }


def _step_content(step: SearchStep, folder: Path) -> dict[str, Any]:
    return {
        "searched": list(step.searched),
        "candidates": [
            {
                "parameters": dict(score.candidate.parameters),
                "folder": score.candidate.folder.relative_to(folder).as_posix(),
                "validation_auc_mean": score.auc_mean,
                "members": list(score.finished),
                "chosen": score == step.chosen,
            }
            for score in step.scores
        ],
    }
