"""Which base loss a member gets, and what is said of it."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from prostate_alm.method.losses import LOSSES, make_loss
from prostate_alm.training.member import base_loss


def member(loss: str, *, alm: bool) -> Any:
    settings = SimpleNamespace(loss=loss, alm=alm, classes=2, make_loss=lambda class_counts: make_loss(loss))
    return SimpleNamespace(settings=settings, train_labels=[0, 1])


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"cb_bce", "ldam"}))
@pytest.mark.parametrize("alm", [True, False])
def test_the_constraint_beside_a_loss_of_pairs_is_warned_of_and_no_other(
    loss: str, alm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert base_loss(member(loss, alm=alm)).name == loss
    assert bool(caplog.records) == (loss == "mbauc" and alm)
