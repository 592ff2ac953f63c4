"""Two gloo ranks against one process that sees the rows of both."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prostate_alm.method.lagrangian import AugmentedLagrangian

WORKER = Path(__file__).with_name("gloo_worker.py")


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("gloo_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what each of two ranks found; all scenarios share one start of the processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder)], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_equal_one_process_over_50_steps(ranks, worker):
    one = worker.train(None)  # in float64, where the two agree far better than the 1e-6 that is asked
    for rank in ranks:
        trained = rank["trained"]
        for name, parameter in one["network"].items():
            torch.testing.assert_close(trained["network"][name], parameter, rtol=0, atol=1e-9)
        assert trained["multipliers"] == pytest.approx(one["multipliers"], abs=1e-9)
        assert trained["mu"] == one["mu"] == pytest.approx(0.2 * 2**3)
    assert max(one["multipliers"].values()) > 0.1


def test_multipliers_are_the_same_bits_on_both_ranks(ranks):
    assert ranks[0]["trained"]["multipliers"] == ranks[1]["trained"]["multipliers"]


def test_critical_classes_on_two_ranks_equal_one_process(ranks, worker):
    one = worker.train_classes(None)
    for rank in ranks:
        trained = rank["trained classes"]
        for name, parameter in one["network"].items():
            torch.testing.assert_close(trained["network"][name], parameter, rtol=0, atol=1e-9)
        for name, multipliers in one["multipliers"].items():
            assert trained["multipliers"][name] == pytest.approx(multipliers, abs=1e-9)
            assert max(multipliers.values()) > 0.1
    assert ranks[0]["trained classes"]["multipliers"] == ranks[1]["trained classes"]["multipliers"]


def test_a_label_that_is_no_class_on_one_rank_reaches_the_other(ranks):
    assert ranks[1]["label"].startswith("ValueError: labels must be whole numbers from 0 to 2, got [3]")
    assert ranks[0]["label"].startswith("RuntimeError: every rank must have a valid batch, got an error on rank 1")


def test_padded_duplicates_add_nothing(ranks, worker):
    x, labels, ids = worker.cohort()
    term = AugmentedLagrangian.as_printed(ids, mu=0.2, rho=2.0)
    expected = term(x[:6, 0], labels[:6], ids[:6]).item()
    assert expected > 0
    assert ranks[0]["padded"] == ranks[1]["padded"] == pytest.approx(expected, rel=1e-6)


def test_no_rank_has_a_row(ranks):
    assert [rank["empty"] for rank in ranks] == [0.0, 0.0]


def test_the_base_is_weighted_by_the_share_of_rows_wherever_they_live(ranks):
    """Mean over ranks of weight times mean is the mean over 4 rows: (w_0 m_0 + w_1 m_1) / 2 = (1 m_0 + 3 m_1) / 4."""
    assert [rank["weight"] for rank in ranks] == [0.5, 1.5]


def test_an_error_on_one_rank_reaches_the_other_instead_of_a_hang(ranks):
    assert ranks[1]["nan"].startswith("NonFiniteLogitsError: logits must be finite, got nan for ['a'] at step 0")
    assert ranks[0]["nan"].startswith("RuntimeError: every rank must have a valid batch, got an error on rank 1")
    assert ranks[0]["unknown id"].startswith("ValueError: the id of a positive must be one of the 2 given")
    assert ranks[1]["unknown id"].startswith("RuntimeError: every rank must have a valid batch, got an error on rank 0")


def test_a_mu_that_differs_is_an_error_on_both_ranks(ranks):
    for rank in ranks:
        assert rank["mu"].startswith("RuntimeError: mu must be the same on all ranks, got [0.2, 0.3")


def test_the_ranks_are_in_step_after_the_errors(ranks):
    assert [rank["afterwards"] for rank in ranks] == ["no error", "no error"]
