"""Cohorts: manifests, splits by patient, and what happens to a volume before the network sees it."""
