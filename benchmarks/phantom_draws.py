"""What the draw of a synthetic cohort allows: the ideal observer's AUC on its own studies, seed by seed.

    python benchmarks/phantom_draws.py RECIPE [--seeds 400 401 402]

The observer knows each study's conspicuity and not the reader's noise. Over many studies no score does better; in 100
test studies a few unlucky labels move it by points. No image is made: a seed is judged by its labels alone.
"""

import argparse
from pathlib import Path

import numpy as np

from prostate_alm.data.splits import split_patients
from prostate_alm.data.synthetic import SyntheticCohort, read_recipe
from prostate_alm.method.metrics import auc
from prostate_alm.phantom.cohort import observer_auc, plan_study
from prostate_alm.phantom.reader import equivocal_probability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="(default: the recipe's own)")
    options = parser.parse_args()
    cohort = read_recipe(options.recipe).cohort
    difficulty = cohort.difficulty if cohort.reader_difficulty is None else cohort.reader_difficulty
    expected = observer_auc(difficulty, lesions=cohort.lesions)
    print("| seed | training | test | expected |\n|---|---|---|---|")
    for seed in options.seeds or [cohort.seed]:
        figures = observed(cohort.model_copy(update={"seed": seed}), difficulty)
        print(f"| {seed} | {figures[0]:.3f} | {figures[1]:.3f} | {expected:.3f} |", flush=True)


def observed(cohort: SyntheticCohort, difficulty: float) -> list[float]:
    """Return the observer's AUC on the training and on the test studies of the cohort's manifest."""
    plans = {plan.identifier: plan for plan in (plan_study(i + 1, **cohort.phantom) for i in range(cohort.studies))}
    labels = {name: plan.label for name, plan in plans.items()}
    own = {name: name for name in labels}  # each study is a patient, and manifests are split by seed 0
    figures = []
    for part in split_patients(labels, own, share=cohort.test_share, seed=0, purpose="test"):
        score = equivocal_probability(np.array([plans[name].verdict.conspicuity for name in part]), difficulty)
        figures.append(auc([labels[name] for name in part], score))
    return figures


if __name__ == "__main__":
    main()
