"""Work in several processes: the order, the errors, and a worker that dies."""

import math
import signal
import time
from multiprocessing import active_children

import pytest

from prostate_alm.parallel import map_in_order


@pytest.mark.parametrize("workers", [1, 2, 100])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_in_order(math.sqrt, range(9), workers=workers)) == [math.sqrt(i) for i in range(9)]


def test_few_items_start_no_process() -> None:
    assert list(map_in_order(lambda i: -i, range(7), workers=8)) == [-i for i in range(7)]  # cannot be pickled


def test_an_error_of_the_function_ends_the_iteration() -> None:
    results = map_in_order(math.sqrt, [4.0, 1.0, -1.0, 9.0] * 2, workers=2)
    assert [next(results), next(results)] == [2.0, 1.0]
    with pytest.raises(ValueError, match="math domain error"):
        next(results)
    assert list(results) == []


def test_closing_the_iteration_ends_the_workers() -> None:
    results = map_in_order(time.sleep, [0.0] + [60.0] * 7, workers=2)
    next(results)
    workers = active_children()
    assert len(workers) == 2
    results.close()
    for worker in workers:
        worker.join(timeout=10)
        assert worker.exitcode == -signal.SIGTERM


def test_the_work_of_a_worker_that_dies_is_done_here(caplog: pytest.LogCaptureFixture) -> None:
    deadly = "__import__('os')._exit(1) if __import__('multiprocessing').parent_process() else 'alive'"
    items = ["1", "2", "3", deadly, "5", "6", "7", "8"]
    assert list(map_in_order(eval, items, workers=2)) == [1, 2, 3, "alive", 5, 6, 7, 8]
    assert caplog.text.count("a worker process died") == 1
