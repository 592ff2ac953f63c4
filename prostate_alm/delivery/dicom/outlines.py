"""Edges of a mask as closed polygons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Corner = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the outer edge of each 4-connected part of a mask, exactly along the edges of its voxels.

    Args:
        mask: (X, Y); voxel (i, j) reaches from (i - 1/2, j - 1/2) to (i + 1/2, j + 1/2).

    Returns:
        The corners of each, (N, 2) in voxels, the first again at the end; none where the mask is empty. Holes are
        filled.

    >>> [ring.tolist() for ring in outlines(np.ones((1, 2), bool))]
    [[[-0.5, -0.5], [0.5, -0.5], [0.5, 1.5], [-0.5, 1.5], [-0.5, -0.5]]]
    """
    ends = _edges(mask)
    rings = []
    while ends:
        rings.append(_ring(ends))
    return [ring for ring in rings if signed_area(ring) > 0]  # those of holes run the other way


def signed_area(ring: NDArray[np.float64]) -> float:
    """Return the area within a closed ring (N, 2), negative where it runs clockwise.

    >>> signed_area(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0], [0.0, 3.0], [0.0, 0.0]]))
    6.0
    """
    (x, y), (to_x, to_y) = ring[:-1].T, ring[1:].T
    return float((x * to_y - to_x * y).sum() / 2)


def _edges(mask: NDArray[np.bool_]) -> dict[_Corner, list[_Corner]]:
    """Return the edges between voxels inside and outside, from corner to corner, with the inside on the left."""
    padded = np.pad(mask, 1)
    sides = (((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (1, 1)), ((0, 1), (1, 1), (0, 1)), ((-1, 0), (0, 1), (0, 0)))
    ends: dict[_Corner, list[_Corner]] = {}
    for (i, j), (a, b), (c, d) in sides:
        outside = np.roll(padded, (-i, -j), (0, 1))[1:-1, 1:-1]
        for x, y in np.argwhere(mask & ~outside).tolist():
            ends.setdefault((x + a, y + b), []).append((x + c, y + d))
    return ends


def _ring(ends: dict[_Corner, list[_Corner]]) -> NDArray[np.float64]:
    """Take one closed ring out of the edges and return its corners; where two voxels touch, it turns left."""
    start = here = min(ends)
    corners, step = [start], (0, 0)
    while here != start or len(corners) == 1:
        left = (here[0] - step[1], here[1] + step[0])
        following = left if left in ends[here] else ends[here][0]
        ends[here].remove(following)
        if not ends[here]:
            del ends[here]
        last, step = step, (following[0] - here[0], following[1] - here[1])
        if step == last:
            corners.pop()
        corners.append(following)
        here = following
    return np.array(corners) - 0.5
