"""The figures of `metrics.json` in words, and which way is better; each is a share and is shown in percent."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class MetricName:
    """What a figure is called, above a column also `short`; with how many digits it is shown; which way is better."""

    words: str
    short: str = ""
    digits: int = 1
    more_is_better: bool = False

    @property
    def head(self) -> str:
        """The name above a column of a table."""
        return self.short or self.words

    def signed(self, percentage_points: float) -> str:
        """Return a difference.

        >>> METRIC_NAMES["auc"].signed(1.234), METRIC_NAMES["fpr_at_tpr95"].signed(-1.234)
        ('+1.23', '-1.2')
        """
        return f"{percentage_points:+.{self.digits}f}"


METRIC_NAMES = MappingProxyType(
    {
        "auc": MetricName("AUC", digits=2, more_is_better=True),
        **{f"fpr_at_tpr{tpr}": MetricName(f"FPR at {tpr} % TPR") for tpr in (100, 95, 90)},
        **{
            f"rest_error_at_tpr{tpr}": MetricName(
                f"error of the other classes at {tpr} % TPR", f"others' error at {tpr} % TPR", digits=2
            )
            for tpr in (80, 90, 95)
        },
        "balanced_accuracy": MetricName("balanced accuracy", digits=2, more_is_better=True),
        "fpr_at_fn0": MetricName("FPR at 0 false negatives", "FPR at 0 FN"),
        "fpr_at_fn1": MetricName("FPR at 1 false negative", "FPR at 1 FN"),
        "ensemble_auc": MetricName("AUC of the ensemble", digits=2, more_is_better=True),
        "member_auc_mean": MetricName("mean AUC of the members", digits=2, more_is_better=True),
        "member_auc_std": MetricName("standard deviation of it", digits=2),
    }
)
"""By their keys; the last three are columns of the paper's tables 3 and 4."""
