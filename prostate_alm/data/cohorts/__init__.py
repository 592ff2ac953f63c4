"""Public collections of prostate MRI: one small module for each, from its published files to labelled studies."""
