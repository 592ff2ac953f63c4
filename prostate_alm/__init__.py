"""Classifiers that must not miss the critical class, trained under an augmented-Lagrangian constraint."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prostate_alm.method.critical import CriticalClasses
    from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss

__version__ = "0.1.0"
__all__ = ["AugmentedLagrangian", "ConstrainedLoss", "CriticalClasses"]


def __getattr__(name: str) -> Any:
    """Return what a training loop needs; torch is imported with the first of them, not with the package."""
    if name not in __all__:
        raise AttributeError(f"module 'prostate_alm' has no attribute {name!r}")
    from prostate_alm.method import critical, lagrangian

    return getattr(critical if name == "CriticalClasses" else lagrangian, name)
