"""Classifiers that must not miss the critical class, trained under an augmented-Lagrangian constraint."""

__version__ = "0.1.0"
