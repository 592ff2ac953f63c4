"""What libraries say of values in headers reaches nobody: they quote them, and identifiers are values."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_about_values() -> Iterator[None]:
    """Keep warnings and log lines of pydicom and highdicom back; a context, or a decorator."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [one.disabled for one in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)(\.|$)")
        for one in loggers:
            one.disabled = True
        try:
            yield
        finally:
            for one, was in zip(loggers, before, strict=True):
                one.disabled = was
