"""What the members of an ensemble said on the training studies that they had for validation: one logit a study.

Thresholds and probabilities rest on these: no member saw the study in training, and no test study is spent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.manifest import Manifest
from prostate_alm.method.class_metrics import critical_scores
from prostate_alm.results.predictions import class_logits, read_rows
from prostate_alm.results.run_folder import PREDICTIONS, EnsembleError, RunFolder

FoldLogits = Mapping[str, Mapping[int, NDArray[np.float64]]]
"""Study -> member that had it for validation -> its logit (1,), or those of several classes (K,)."""

_DECIMALS = 4  # of a logit; processors round later ones differently, and the same input shall give the same bytes


@dataclass(frozen=True)
class OutOfFold:
    """Training studies that some member had for validation: label and mean logit over those members, one a study."""

    labels: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float64]  # (N,)
    folds: NDArray[np.int64]  # (N,) members behind each logit


def read_validation_logits(members: Sequence[RunFolder], manifest: Manifest) -> FoldLogits:
    """Return the logits of each training study by each member that had it for validation.

    Args:
        members: of an ensemble, all of them finished.
        manifest: the cohort that they were trained on.

    Raises:
        EnsembleError: a member validated on a test study or on one that the manifest does not have, or with another
            label, or its predictions are not those of training.
    """
    label_of = {study.id: int(study.label) for study in manifest.studies if study.split == "train"}
    logits: dict[str, dict[int, NDArray[np.float64]]] = {}
    for number, member in enumerate(members):
        for row in read_rows(member.file(PREDICTIONS), splits=("validation",)):
            key = row["sample_id"]
            if label_of.get(key) != int(row["label"]):
                raise EnsembleError(
                    f"validation samples must be training studies of the manifest, got another one in {member.path}. "
                    "Give the manifest of the cohort that the members were trained on."
                )
            logits.setdefault(key, {})[number] = np.array(class_logits(row) or [float(row["logit"])])
    return logits


def out_of_fold(logits: FoldLogits, manifest: Manifest, *, critical: int | None = None) -> OutOfFold:
    """Return the mean logit of each study over the members that had it for validation.

    Of several classes it is the log-odds of the critical one, of the mean logits of all.

    A pool of (member, study) pairs would repeat a study up to as many times as there are members and call the copies
    independent, so that every interval came out too narrow. Here each study counts once.

    Args:
        logits: see `read_validation_logits`.
        manifest: the cohort that the members were trained on.
        critical: number of the critical class, which has label 1; None where there are two classes.

    Returns:
        Studies in the order of their ids, logits rounded to four decimals.

    Raises:
        EnsembleError: the two classes are not both there.
    """
    label_of = {study.id: int(study.label) for study in manifest.studies}
    keys = sorted(logits)
    labels = np.array([label_of[key] for key in keys], dtype=np.int64)
    if set(labels.tolist()) != {0, 1}:
        raise EnsembleError(
            f"validation samples must be of both classes, got {len(keys)} of one or none. Train more members."
        )
    means = np.array([[np.mean(own) for own in zip(*logits[key].values(), strict=True)] for key in keys])  # (N, K)
    scores = means[:, 0] if critical is None else critical_scores(means, critical)
    rounded = np.array([round(float(score), _DECIMALS) for score in scores])
    return OutOfFold(labels, rounded, np.array([len(logits[key]) for key in keys], dtype=np.int64))
