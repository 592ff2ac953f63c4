"""Coarse intervals for the tests of this room: what intervals are is asked here, not how fine."""

from collections.abc import Iterator

import pytest

from prostate_alm.training import ensemble


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Draw 100 resamples instead of 1000."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "RESAMPLES", 100)
        yield
