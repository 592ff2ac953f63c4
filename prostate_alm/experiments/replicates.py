"""What ALM changes, pooled over replicates: experiments of one plan with other seeds and so other training images."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from prostate_alm.experiments.effects import MEAN, Effect, all_effects
from prostate_alm.experiments.grid import Cell, Training, side_folder
from prostate_alm.experiments.paper_tables import loss_names, rate_columns
from prostate_alm.experiments.plan import PLAN_FILE, Plan, Task
from prostate_alm.experiments.tables import TRAININGS, Results
from prostate_alm.method.bootstrap import Floats, draw_counts, percentile_interval, rank, ranking_figures
from prostate_alm.progress import Progress, silent
from prostate_alm.results.predictions import TEST, read_rows
from prostate_alm.results.run_folder import METRICS, PREDICTIONS

RESAMPLES, TEST_DRAWS = 1000, 100


@dataclass(frozen=True)
class Replicate:
    """An experiment: its folder and what is in it."""

    root: Path
    results: Results

    @property
    def seed(self) -> int:
        """The seed, which tells replicates apart."""
        return self.results.plan.seed

    def folder(self, cell: Cell, training: Training) -> Path:
        """Return the folder of an ensemble."""
        return self.root / side_folder(self.results.plan, cell, training=training)


@dataclass(frozen=True)
class Gap:
    """An ensemble of a replicate that is absent, or is there with fewer members than planned, and why."""

    seed: int
    cell: Cell
    training: Training
    is_absent: bool
    reason: str


@dataclass(frozen=True)
class PooledEffect(Effect):
    """The mean effect over replicates; its interval is over replicates and test images.

    `replicates` says how many have the loss, or any loss for `MEAN`; `cells` how many pairs of (loss, replicate) are in
    the mean, and `rises` in how many of them the figure rose.
    """

    replicates: int = 0
    cells: int = 0
    rises: int = 0


def replicate_of(plan: Plan, *, seed: int) -> Plan:
    """Return the same plan with another seed.

    Args:
        plan: any plan.
        seed: at least 0.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed} in the replicate of {plan.name}. Give another one.")
    return plan.model_copy(update={"seed": seed})


def read_replicates(roots: Sequence[Path]) -> list[Replicate]:
    """Return the experiments in these folders, by seed.

    Args:
        roots: folders of experiments of one plan, each with its own seed.

    Raises:
        ValueError: one line when a folder is no experiment, or they differ in more or less than their seed.
    """
    replicates = [Replicate(root, Results(root)) for root in roots]
    if of_classes := [one for one in replicates if one.results.plan.critical is not None]:
        raise ValueError(
            f"replicates must be of plans of two classes to be pooled, got one of several in {of_classes[0].root}: "
            "what is pooled is computed from one logit. Report them one by one."
        )
    for root in roots[1:]:
        _check_same_plan(root / PLAN_FILE, roots[0] / PLAN_FILE)
    by_seed = sorted(replicates, key=lambda replicate: replicate.seed)
    for one, other in itertools.pairwise(by_seed):
        if one.seed == other.seed:
            raise ValueError(
                f"replicates must have different seeds, got {one.seed} in {one.root} and in {other.root}. "
                "Give each experiment once, and run others with: prostate-alm experiment run --seed"
            )
    return by_seed


def _check_same_plan(path: Path, first: Path) -> None:
    """Refuse plans that differ in anything but their seed."""
    record, expected = (json.loads(one.read_text(encoding="utf-8")) for one in (path, first))
    changed = sorted(key for key in record.keys() | expected.keys() if record.get(key) != expected.get(key))
    for key in changed:
        if key != "seed":
            raise ValueError(
                f"replicates must be of plans that differ in their seed only, got another {key} "
                f"({record.get(key)!r}, not {expected.get(key)!r}) in {path} than in {first}. Report them one by one."
            )


def find_gaps(replicates: Sequence[Replicate]) -> list[Gap]:
    """Return what is missing of the ensembles that are compared, in the order of the replicates and the plan."""
    return [
        Gap(replicate.seed, cell, training, is_absent, reason)
        for replicate in replicates
        for cell in _compared(replicate.results.plan)
        for training in TRAININGS
        for is_absent, reason in [_gap(replicate, cell, training)]
        if reason
    ]


def _compared(plan: Plan) -> Iterator[Cell]:
    for pair in plan.tasks:
        for ratio in sorted(plan.ratios):
            yield from (Cell(pair, ratio, loss) for loss in loss_names() if loss in plan.losses and plan.has_alm(loss))


def _gap(replicate: Replicate, cell: Cell, training: Training) -> tuple[bool, str]:
    """Return whether an ensemble cannot be used, and what there is to say of it; empty when all is there."""
    folder = replicate.folder(cell, training)
    reason = replicate.results.why_missing(cell.pair, cell.ratio, cell.loss, training)
    if not (folder / METRICS).is_file():
        return True, reason
    if not (folder / PREDICTIONS).is_file():
        return True, f"no {PREDICTIONS}"
    return False, reason


def pooled_effects(
    replicates: Sequence[Replicate], *, resamples: int = RESAMPLES, seed: int = 0, progress: Progress = silent
) -> list[PooledEffect]:
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
    known = all_effects(replicates[0].results)  # all cells of the plan, with the paper's figures
    groups = dict.fromkeys((effect.pair, effect.ratio) for effect in known)
    pools = {}
    for number, (pair, ratio) in enumerate(groups, start=1):
        pools[pair, ratio] = _pool_group(replicates, pair, ratio, resamples=resamples, seed=seed)
        progress(number, len(groups))
    return [_with_pool(effect, pools[effect.pair, effect.ratio], known) for effect in known]


@dataclass(frozen=True, eq=False)
class _Pool:
    """What is pooled of a loss or of the mean on a test set; arrays have one entry for each column."""

    effect: Floats
    low: Floats
    high: Floats
    replicates: int
    cells: int
    rises: NDArray[np.int64]


def _pool_group(
    replicates: Sequence[Replicate], pair: Task | None, ratio: int, *, resamples: int, seed: int
) -> dict[tuple[str, str], _Pool]:
    images = _TestImages(rate_columns(pair), resamples=resamples, seed=seed)
    found = [_differences(replicate, pair, ratio, images=images) for replicate in replicates]
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
    return _Pool(values[:, 0], low, high, len(means), len(cells), (cells > 0).sum(axis=0))


def _differences(
    replicate: Replicate, pair: Task | None, ratio: int, *, images: "_TestImages"
) -> dict[str, dict[str, Floats]]:
    """Return ALM minus baseline by loss and test set, (columns, 1 + B): all images, then the resamples."""
    found = {}
    for cell in _compared(replicate.results.plan):
        is_here = (cell.pair, cell.ratio) == (pair, ratio)
        if is_here and not any(_gap(replicate, cell, training)[0] for training in TRAININGS):
            baseline, constrained = (
                images.figures(replicate.folder(cell, training) / PREDICTIONS) for training in TRAININGS
            )
            found[cell.loss] = {split: constrained[split] - baseline[split] for split in baseline}
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
        self._first: tuple[Path, list[_Identity]] | None = None

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


_Identity = tuple[str, str, str]
"""Id, split and label of a test sample."""


def _read(path: Path) -> tuple[list[_Identity], Floats]:
    """Return the test samples of an ensemble, those of `test` first, and their scores."""
    # Sorting keeps the order of the file within a split.
    table = sorted(read_rows(path, splits=TEST), key=lambda row: row["split"])
    identities = [(row["sample_id"], row["split"], row["label"]) for row in table]
    return identities, np.array([float(row["logit"]) for row in table])


def _with_pool(known: Effect, pools: Mapping[tuple[str, str], _Pool], effects: Sequence[Effect]) -> PooledEffect:
    """Return an effect of one replicate with what is pooled in place of its own figures."""
    own = {field.name: getattr(known, field.name) for field in fields(Effect)}
    empty = PooledEffect(**own | {"effect": None, "low": None, "high": None, "p_value": None})
    if known.loss == MEAN:
        place = (known.pair, known.split, known.ratio, known.column)
        same = [
            one.paper
            for one in effects
            if (one.pair, one.split, one.ratio, one.column) == place
            and (one.loss, one.split) in pools
            and one.loss != MEAN
        ]
        in_paper = [paper for paper in same if paper is not None]
        empty = replace(empty, losses=len(same), paper=fmean(in_paper) if in_paper else None)
    pool = pools.get((known.loss, known.split))
    if pool is None:
        return empty
    column = rate_columns(known.pair).index(known.column)
    return replace(
        empty,
        effect=float(pool.effect[column]),
        low=float(pool.low[column]),
        high=float(pool.high[column]),
        replicates=pool.replicates,
        cells=pool.cells,
        rises=int(pool.rises[column]),
    )
