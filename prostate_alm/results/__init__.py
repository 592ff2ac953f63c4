"""Trained members and ensembles on disk: one class for each, for all who read them."""
