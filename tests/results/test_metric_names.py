import numpy as np
import pytest

from prostate_alm.experiments.paper_tables import CLASS_COLUMNS, COHORT_COLUMNS, RATE_COLUMNS, metric_of
from prostate_alm.results.metric_names import METRIC_NAMES
from prostate_alm.training.results import summarise

pytestmark = pytest.mark.filterwarnings("ignore::prostate_alm.method.metrics.TooFewPositivesWarning")


def test_more_is_better_where_a_perfect_ranking_has_more() -> None:
    labels = np.repeat([0, 1], [30, 10])
    best, worst = summarise(labels, labels * 1.0), summarise(labels, -labels * 1.0)
    named = [key for key in best if key in METRIC_NAMES]
    assert len(named) == 6  # AUC, three rates at a TPR and two at false negatives
    for key in named:
        assert best[key] != worst[key]
        assert METRIC_NAMES[key].more_is_better == (best[key] > worst[key]), key


@pytest.mark.parametrize("column", [*RATE_COLUMNS, *COHORT_COLUMNS, *CLASS_COLUMNS])
def test_every_column_of_a_report_has_a_name_that_no_other_has(column: str) -> None:
    own = metric_of(column)
    assert [name.words for name in METRIC_NAMES.values()].count(own.words) == 1
    assert [name.head for name in METRIC_NAMES.values()].count(own.head) == 1
