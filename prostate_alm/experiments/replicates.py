"""What ALM changes, pooled over replicates: experiments of one plan with other seeds and so other training images."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm.experiments.effects import MEAN, Effect, compared_losses, effects_of
from prostate_alm.experiments.grid import ARMS, Arm, Cell
from prostate_alm.experiments.paper_tables import rate_columns
from prostate_alm.experiments.plan import PLAN_FILE, Plan, Task
from prostate_alm.experiments.tables import Results
from prostate_alm.method.bootstrap import draw_counts, percentile_interval, rank, ranking_figures
from prostate_alm.method.metrics import Floats
from prostate_alm.progress import Progress, silent
from prostate_alm.results.predictions import TEST, read_rows
from prostate_alm.results.run_folder import METRICS, PREDICTIONS, changed_keys

RESAMPLES, TEST_DRAWS = 1000, 100


@dataclass(frozen=True)
class Gap:
    """An ensemble of a replicate that is absent, or is there with fewer members than planned, and why."""

    seed: int
    cell: Cell
    arm: Arm
    is_absent: bool
    reason: str


def read_replicates(roots: Sequence[Path]) -> list[Results]:
    """Return the experiments in these folders, by seed.

    Args:
        roots: the folder of an experiment, or those of several of one plan, each with its own seed.

    Raises:
        ValueError: one line when a folder is no experiment, or they differ in more or less than their seed.
    """
    replicates = [Results(root) for root in roots]
    if len(roots) > 1 and (of_classes := [one for one in replicates if one.plan.critical is not None]):
        raise ValueError(
            f"replicates must be of plans of two classes to be pooled, got one of several in {of_classes[0].root}: "
            "what is pooled is computed from one logit. Report them one by one."
        )
    for root in roots[1:]:
        _check_same_plan(root / PLAN_FILE, roots[0] / PLAN_FILE)
    by_seed = sorted(replicates, key=lambda one: one.plan.seed)
    for one, other in itertools.pairwise(by_seed):
        if one.plan.seed == other.plan.seed:
            raise ValueError(
                f"replicates must have different seeds, got {one.plan.seed} in {one.root} and in {other.root}. "
                "Give each experiment once, and run others with: prostate-alm experiment run --seed"
            )
    return by_seed


def _check_same_plan(path: Path, first: Path) -> None:
    """Refuse plans that differ in anything but their seed."""
    record, expected = (json.loads(one.read_text(encoding="utf-8")) for one in (path, first))
    for key in changed_keys(record, expected):
        if key != "seed":
            raise ValueError(
                f"replicates must be of plans that differ in their seed only, got another {key} "
                f"({record.get(key)!r}, not {expected.get(key)!r}) in {path} than in {first}. Report them one by one."
            )


def find_gaps(replicates: Sequence[Results]) -> list[Gap]:
    """Return what is missing of the ensembles that are compared, in the order of the replicates and the plan."""
    return [
        Gap(results.plan.seed, cell, arm, is_absent, reason)
        for results in replicates
        for cell in _compared(results.plan)
        for arm in ARMS
        for is_absent, reason in [_gap(results, cell, arm)]
        if reason
    ]


def _compared(plan: Plan) -> Iterator[Cell]:
    for pair in plan.tasks:
        for ratio in sorted(plan.ratios):
            yield from (Cell(pair, ratio, loss) for loss in compared_losses(plan))


def _gap(results: Results, cell: Cell, arm: Arm) -> tuple[bool, str]:
    """Return whether an ensemble cannot be used, and what there is to say of it; empty when all is there."""
    folder, reason = results.folder(cell, arm), results.why_missing(cell, arm)
    if not (folder / METRICS).is_file():
        return True, reason
    if not (folder / PREDICTIONS).is_file():
        return True, f"no {PREDICTIONS}"
    return False, reason


def pooled_effects(
    replicates: Sequence[Results], *, resamples: int = RESAMPLES, seed: int = 0, progress: Progress = silent
) -> list[Effect]:
    """Return ALM minus baseline for all pairs, test sets, class ratios and columns, of each loss and on average.

    An effect is the mean over the replicates; for `MEAN` it is taken in each replicate over the losses that it has. In
    each resample replicates are drawn with replacement, and so are the test images of each class: the same images for
    both ensembles, all losses and all replicates. Intervals of `test_draws` are of the mean over all possible draws.

    Args:
        replicates: from `read_replicates`.
        resamples: of the bootstrap, at least 1.
        seed: of the bootstrap; the same seed gives the same intervals.
        progress: called after each pair of classes and class ratio.

    Returns:
        Effects in percentage points, None where no replicate has both ensembles.

    Raises:
        ValueError: ensembles were evaluated on different test samples, or resamples is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples} in pooled_effects. Draw some.")
    plan = replicates[0].plan
    groups = list(itertools.product(plan.tasks, sorted(plan.ratios)))
    pools = {}
    for number, (pair, ratio) in enumerate(groups, start=1):
        pools[pair, ratio] = _pool_group(replicates, pair, ratio, resamples=resamples, seed=seed)
        progress(number, len(groups))
    return effects_of(plan, lambda known: _with_pool(known, pools[known.pair, known.ratio]))


_Pool = list[dict[str, Any]]
"""What is pooled of a loss or of the mean on a test set: fields of `Effect`, by column."""


def _pool_group(
    replicates: Sequence[Results], pair: Task | None, ratio: int, *, resamples: int, seed: int
) -> dict[tuple[str, str], _Pool]:
    images = _TestImages(rate_columns(pair), resamples=resamples, seed=seed)
    found = (_differences(results, pair, ratio, images=images) for results in replicates)
    present = [own for own in found if own]
    groups = {loss: [[own[loss]] for own in present if loss in own] for own in present for loss in own}
    if present:
        groups[MEAN] = [list(own.values()) for own in present]
    return {
        (loss, split): _pool([[difference[split] for difference in own] for own in group], seed=seed)
        for loss, group in groups.items()
        for split in group[0][0]
    }


def _pool(differences: Sequence[Sequence[Floats]], *, seed: int) -> _Pool:
    """Return the mean over replicates of the mean over the losses of each, with its interval.

    Args:
        differences: for each replicate and each of its losses (columns, 1 + B): all images, then the resamples.
        seed: the same for all losses, so that they see the same draws of replicates.
    """
    means = np.stack([np.mean(own, axis=0) for own in differences])  # (R, columns, 1 + B)
    cells = np.stack([one[:, 0] for own in differences for one in own])
    counts = draw_counts(np.random.default_rng([seed, len(means)]), len(means), resamples=means.shape[-1] - 1)
    values = 100.0 * np.einsum("rb,rcb->cb", counts, means) / len(means)
    low, high = percentile_interval(values[:, 1:])
    found = {"effect": values[:, 0], "low": low, "high": high, "rises": (cells > 0).sum(axis=0)}
    counted = {"replicates": len(means), "cells": len(cells)}
    return [{name: own[place].item() for name, own in found.items()} | counted for place in range(len(values))]


def _differences(
    results: Results, pair: Task | None, ratio: int, *, images: "_TestImages"
) -> dict[str, dict[str, Floats]]:
    """Return ALM minus baseline by loss and test set, (columns, 1 + B): all images, then the resamples."""
    found = {}
    for loss in compared_losses(results.plan):
        cell = Cell(pair, ratio, loss)
        if not any(_gap(results, cell, arm)[0] for arm in ARMS):
            baseline, constrained = (images.figures(results.folder(cell, arm) / PREDICTIONS) for arm in ARMS)
            found[loss] = {split: constrained[split] - baseline[split] for split in baseline}
    return found


class _TestImages:
    """The test images of a pair of classes at a class ratio, which all ensembles share, and their resamples.

    Args:
        columns: see `paper_tables.rate_columns`.
        resamples: B.
        seed: of the bootstrap.
    """

    def __init__(self, columns: Sequence[str], *, resamples: int, seed: int) -> None:
        self._rates = columns[1:]  # the AUC comes first
        self._resamples, self._random = resamples, np.random.default_rng(seed)
        self._first: tuple[Path, list[_TestSample]] | None = None

    def figures(self, path: Path) -> dict[str, Floats]:
        """Return the figures of an ensemble by test set, (columns, 1 + B): all images, then the resamples.

        Args:
            path: its predictions.

        Raises:
            ValueError: they are of other samples than those of the first ensemble.
        """
        identities, logits = _read(path)
        if self._first is None:
            self._first = path, identities
            self._draw([split for _, split, label in identities if label == "1"], len(identities))
        elif identities != self._first[1]:
            raise ValueError(
                f"replicates must have the same test samples, got others in {path} than in {self._first[0]}. "
                "Were they trained on different data? Report them one by one."
            )
        is_positive = np.array([label == "1" for *_, label in identities])
        positive, negative = logits[is_positive], logits[~is_positive]
        ranking = rank(positive, negative, negative_counts=self._negatives)
        found = {
            split: ranking_figures(ranking, counts, rates=self._rates) for split, counts in self._positives.items()
        }
        if "test_all_positives" in found:
            counts = self._positives["test_all_positives"]
            mean = ranking_figures(ranking, counts, size=self._at_ratio, rates=self._rates)
            whole = rank(positive, negative, negative_counts=self._negatives[:, :1])
            mean[:, 0] = ranking_figures(whole, self._fixed_draws, rates=self._rates).mean(axis=1)
            found["test_draws"] = mean
        return found

    def _draw(self, splits: Sequence[str], images: int) -> None:
        """Draw the resamples; `splits` are those of the positives, `test` before `test_extra`."""
        positives, at_ratio = len(splits), splits.count("test")
        self._at_ratio = at_ratio
        self._negatives = draw_counts(self._random, images - positives, resamples=self._resamples)
        of_all = draw_counts(self._random, positives, resamples=self._resamples)
        of_test = np.zeros_like(of_all)
        of_test[:at_ratio] = draw_counts(self._random, at_ratio, resamples=self._resamples)
        self._positives = {"test": of_test}
        if at_ratio < positives:
            self._positives["test_all_positives"] = of_all
        chance = np.random.default_rng(0)  # these are the draws of an ensemble's own metrics
        self._fixed_draws = np.zeros((positives, TEST_DRAWS), np.int32)
        for column in self._fixed_draws.T:
            column[chance.choice(positives, at_ratio, replace=False)] = 1


_TestSample = tuple[str, str, str]
"""Id, split and label of a test sample."""


def _read(path: Path) -> tuple[list[_TestSample], Floats]:
    """Return the test samples of an ensemble, those of `test` first, and their scores."""
    # Sorting keeps the order of the file within a split.
    table = sorted(read_rows(path, splits=TEST), key=lambda row: row["split"])
    identities = [(row["sample_id"], row["split"], row["label"]) for row in table]
    return identities, np.array([float(row["logit"]) for row in table])


def _with_pool(known: Effect, pools: Mapping[tuple[str, str], _Pool]) -> Effect:
    """Return an effect with what is pooled in place of its own figures."""
    pool = pools.get((known.loss, known.split))
    if pool is None:
        return replace(known, effect=None)
    return replace(known, **pool[rate_columns(known.pair).index(known.column)])
