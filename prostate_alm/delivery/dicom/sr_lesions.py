"""The candidates of an answer in its report: a measurement group each, with its place, its outlines and its numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from highdicom import sr
from numpy.typing import NDArray

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.frames import PlacedLesions, label_of
from prostate_alm.delivery.prediction import LesionCandidate, ModelIdentity

_Corner = tuple[int, int]
_SIDES = {"left": codes.LEFT, "right": codes.RIGHT, "both": codes.BOTH_SIDES}
_LEVELS = {"base": codes.BASE, "mid": codes.MIDDLE, "apex": codes.APEX}
_PLACE_DECIMALS = 6  # of a mm: finer ones differ between machines, and coarser ones would bend the plane of an outline


def lesion_groups(
    model: ModelIdentity, lesions: PlacedLesions, *, algorithm: sr.AlgorithmIdentification
) -> list[sr.PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Return a measurement group for each candidate (TID 1410).

    Its region is the peak, a point in the patient's coordinates, so that a viewer can go there. The probability is
    inferred from that point, the volume from the outlines, slice by slice, which run along the edges of T2's voxels.
    The segment of the same Tracking UID is the same candidate.

    Args:
        model: that answered.
        lesions: what it found.
        algorithm: who found them.

    Reference:
        DICOM PS3.16 TID 1410, TID 300; PS3.3 C.18.9 (SCOORD3D).
    """
    return [_group(model, one, lesions, algorithm=algorithm) for one in lesions.candidates]


def surest_place(lesions: PlacedLesions | None) -> list[sr.CoordinatesForMeasurement3D] | None:
    """Return the peak of the surest candidate, None without one: what the probability of the study is inferred from.

    Viewers expect a place of everything that is measured, and go there.
    """
    return None if lesions is None or not lesions.candidates else [_place(lesions.candidates[0], lesions)]


def _group(
    model: ModelIdentity, one: LesionCandidate, lesions: PlacedLesions, *, algorithm: sr.AlgorithmIdentification
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    frame_of_reference = lesions.frames.frame_of_reference_uid
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=lesions.uid_of(model, one), identifier=label_of(one)),
        referenced_region=sr.ImageRegion3D(sr.GraphicTypeValues3D.POINT, _peak_mm(one), frame_of_reference),
        finding_type=codes.LESION,
        finding_sites=[_site(one)],
        algorithm_id=algorithm,
    )
    regions = [
        sr.CoordinatesForMeasurement3D(sr.GraphicTypeValues3D.POLYGON, outline_mm, frame_of_reference)
        for outline_mm in outlines_mm(one, lesions)
    ]
    numbers = [  # added here, since highdicom has no places of numbers within a region
        sr.Measurement(
            codes.PROBABILITY, round(one.probability, 4), codes.SHARE, referenced_coordinates=[_place(one, lesions)]
        ),
        sr.Measurement(codes.VOLUME, round(one.volume_mm3, 1), codes.MM3, referenced_coordinates=regions),
    ]
    group[0].ContentSequence.extend(item for number in numbers for item in number)
    contains = sr.RelationshipTypeValues.CONTAINS
    group[0].ContentSequence.append(sr.TextContentItem(codes.COMMENT, label_of(one), relationship_type=contains))
    group[0].ContentSequence.append(sr.TextContentItem(codes.PEAK, _in_words(one), relationship_type=contains))
    return group


def _peak_mm(one: LesionCandidate) -> NDArray[np.float64]:
    return np.round(np.array([one.position_mm]), _PLACE_DECIMALS)


def _place(one: LesionCandidate, lesions: PlacedLesions) -> sr.CoordinatesForMeasurement3D:
    """Return the peak of a candidate as what a number is inferred from."""
    frame_of_reference = lesions.frames.frame_of_reference_uid
    return sr.CoordinatesForMeasurement3D(sr.GraphicTypeValues3D.POINT, _peak_mm(one), frame_of_reference)


def _in_words(one: LesionCandidate) -> str:
    """Return where the peak lies, for those who see no pictures.

    >>> _in_words(LesionCandidate(number=1, probability=0.5, position_mm=(12.3, -4.56, 60.0), volume_mm3=9))
    'x 12.3, y -4.6, z 60.0 mm (towards the left, the back, the head)'
    """
    x, y, z = one.position_mm
    return f"x {x:.1f}, y {y:.1f}, z {z:.1f} mm (towards the left, the back, the head)"


def _site(one: LesionCandidate) -> sr.FindingSite:
    return sr.FindingSite(
        codes.PROSTATE, laterality=_SIDES.get(one.side or ""), topographical_modifier=_LEVELS.get(one.level or "")
    )


def outlines_mm(one: LesionCandidate, lesions: PlacedLesions) -> Iterator[NDArray[np.float64]]:
    """Yield the closed outlines (N, 3) of a candidate in the patient's coordinates, slice by slice."""
    mask = lesions.findings.labels == one.number
    for k in np.flatnonzero(mask.any((0, 1))):
        for ring in outlines(mask[:, :, k]):
            corners = np.column_stack([ring, np.full(len(ring), k), np.ones(len(ring))])
            yield np.round((corners @ lesions.findings.affine_lps.T)[:, :3], _PLACE_DECIMALS)


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
