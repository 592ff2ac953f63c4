"""The mathematics of the paper: constraint, multipliers, base losses and metrics. No files, no MONAI."""
