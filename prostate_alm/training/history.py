"""What is written down of each epoch, and shown of it."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from tqdm import tqdm

from prostate_alm.method.batch import Constraint
from prostate_alm.method.lagrangian import AugmentedLagrangian
from prostate_alm.training.distributed import is_leader
from prostate_alm.training.handlers import validated
from prostate_alm.training.stages import StagedLoss, Stages

logger = logging.getLogger(__name__)


class EpochLosses:
    """Means of the loss and of its two parts over the steps of an epoch, on this rank.

    Args:
        loss: F and the constraint, or F alone.
    """

    def __init__(self, loss: StagedLoss) -> None:
        self._loss = loss
        self._total: list[torch.Tensor] = []
        self._base: list[torch.Tensor] = []

    def attach(self, trainer: Engine) -> None:
        """Follow the steps of `trainer`."""
        trainer.add_event_handler(Events.STARTED, self._follow)
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: self._forget())
        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: self._add(engine.state.output["loss"]))

    def _follow(self, trainer: Engine) -> None:
        hook = self._loss.whole.base.register_forward_hook(lambda _, __, value: self._base.append(value.detach()))
        trainer.add_event_handler(Events.COMPLETED, lambda _: hook.remove())

    def means(self) -> dict[str, float]:
        """Return `train_loss` and, with a constraint, its parts `train_base_loss` and `train_constraint`."""
        total = float(torch.stack(self._total).mean())
        if self._loss.term is None:
            return {"train_loss": total}
        base = float(torch.stack(self._base).mean())
        return {"train_loss": total, "train_base_loss": base, "train_constraint": total - base}

    def _forget(self) -> None:
        self._total.clear()
        self._base.clear()

    def _add(self, loss: torch.Tensor) -> None:
        self._total.append(loss.detach())


class History:
    """Write down the figures of each epoch: losses, validation and state of the constraint.

    Args:
        loss: of the training.
        evaluator: of the validation.
        stages: say which stage an epoch belongs to.

    Attributes:
        rows: one for each epoch of both stages; `step` counts them from 1.
    """

    def __init__(self, loss: StagedLoss, evaluator: Engine, stages: Stages) -> None:
        self._loss, self._evaluator, self._stages = loss, evaluator, stages
        self._losses = EpochLosses(loss)
        self.rows: list[dict[str, float]] = []

    def attach(self, trainer: Engine) -> None:
        """Act after each epoch of `trainer`."""
        self._losses.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        metrics = validated(self._evaluator, trainer)
        row = {"step": float(len(self.rows) + 1), "stage": float(self._stages.number), **self._losses.means()}
        row |= {key: value for key, value in metrics.items() if key.startswith("val_")}
        if self._loss.term is not None:
            row |= _diagnostics(self._loss.term)
        self.rows.append(row)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.rows = state["rows"]


def _diagnostics(constraint: Constraint) -> dict[str, float]:
    return {
        f"{name}{suffix}": value for suffix, term in constraint.terms.items() for name, value in _figures(term).items()
    }


def _figures(term: AugmentedLagrangian) -> dict[str, float]:
    report = term.diagnostics()
    term.reset_diagnostics()
    return {
        "alm_mu": report.mu,
        "alm_q_mean": report.q_mean,
        "alm_q_max": report.q_max,
        "alm_violated_share": report.violated_share,
        "alm_gradient_ratio": report.gradient_ratio,
        **{f"alm_lambda_{name}": value for name, value in report.multiplier_quantiles._asdict().items()},
    }


class ShowProgress:
    """Show a bar on a terminal, a log line per epoch elsewhere.

    Args:
        history: what is shown.
        stages: names of the stages.
    """

    def __init__(self, history: History, stages: Stages) -> None:
        self._history, self._stages = history, stages
        self._bar: Any = None

    def attach(self, trainer: Engine) -> None:
        """Act from the start to the end of `trainer`."""
        trainer.add_event_handler(Events.STARTED, self._begin)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)
        trainer.add_event_handler(Events.COMPLETED, lambda _: self._bar.close())

    def _begin(self, trainer: Engine) -> None:
        hidden = not (sys.stderr.isatty() and is_leader())
        first, last = trainer.state.epoch, trainer.state.max_epochs
        self._bar = tqdm(total=last, initial=first, unit="epoch", disable=hidden)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        row = self._history.rows[-1]
        number = int(row["stage"])
        name = self._stages.name_of(number)
        self._bar.set_description_str(name)
        self._bar.set_postfix_str(f"validation AUC {row['val_auc']:.3f}")
        self._bar.update()
        if self._bar.disable:
            epoch = f"{sum(one['stage'] == number for one in self._history.rows)}/{self._stages.epochs_of(number)}"
            logger.info("%s epoch %s: validation AUC %.3f, loss %.3f", name, epoch, row["val_auc"], row["val_loss"])
