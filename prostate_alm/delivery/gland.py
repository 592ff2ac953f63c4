"""Where a study's gland lies: what a packed localiser says of its T2."""

from prostate_alm.data.gland import GlandLocation, locate_gland

__all__ = ["GlandLocation", "locate_gland"]
