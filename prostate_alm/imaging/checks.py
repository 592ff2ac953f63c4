"""What makes a study unusable: one small check per refusal, asked in order, the first that answers decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from prostate_alm.imaging.dicom import Instance, Series, StudyRefused
from prostate_alm.imaging.files import LINKED_FOLDER
from prostate_alm.imaging.geometry import POSITION_TOLERANCE_MM, Stack, stack_images
from prostate_alm.imaging.pixels import Fault
from prostate_alm.imaging.protocol import difference, is_enough
from prostate_alm.imaging.rulebook import Rules
from prostate_alm.imaging.rules import Judgement, is_diffusion_by_name, listed, modality_word, trace_b_values
from prostate_alm.imaging.scan import LIMITS, OverLimitError, require_at_most
from prostate_alm.imaging.selection import Refusal, Selection, image_stacks, skip_reasons


def value_refusal(selection: Selection) -> Refusal | None:
    """Return why the values of the images that are used mean nothing, or nothing in common; None where they do.

    Within a stack all images have one slope and one intercept. The b-values of a fit may have several, as the header
    says what each means, except where Philips' scale slope is lost: what its slopes alone give are grey values of the
    display, which each series has its own of.

    Reference: DICOM PS3.3 C.11.1; Chenevert et al., Errors in quantitative image analysis due to platform-dependent
        image scaling, Translational Oncology 2014.
    """
    stacks = image_stacks(selection)
    for place, images in stacks:
        for one in images:
            if one.pixels.fault is not None:
                return _refusal(one.pixels.fault, f"{place}, image {one.instance_number}")
        fault = _uneven(images)
        if fault is not None:
            return _refusal(fault, place)
    diffusion = [image for _, images in stacks[1 if selection.t2 is not None else 0 :] for image in images]
    fault = _display_values(diffusion, {one.series.manufacturer for one in selection.dwi})
    fault = fault or size_fault(image for _, images in stacks for image in images)
    return None if fault is None else _refusal(fault, "the images that are used")


def size_fault(images: Iterable[Instance]) -> Fault | None:
    """Return which of `LIMITS` the matrix or the voxels of images exceed, before anything is allocated for them."""
    voxels = 0
    try:
        for one in images:
            require_at_most(max(one.rows, one.columns), LIMITS.matrix, "rows or columns")
            voxels += one.rows * one.columns
        require_at_most(voxels, LIMITS.voxels, "voxels")
    except OverLimitError as error:
        rule, found = str(error).split(", got ")
        return Fault("oversized_study", rule, found, "Send the original series.")
    return None


def _uneven(images: Sequence[Instance]) -> Fault | None:
    """Return a fault where the slope or the intercept differs within a stack, which is one measurement."""
    found = {(round(one.pixels.slope, 9), round(one.pixels.intercept, 6)) for one in images}
    if len(found) == 1 or all(one.pixels.rescale.scale is not None for one in images):
        return None
    rule = "the images of a stack must share one rescale slope and intercept"
    return Fault("unreadable_rescale", rule, f"{len(found)} of them")


def _display_values(images: Sequence[Instance], manufacturers: set[str]) -> Fault | None:
    """Return a fault where b-values are compared in grey values of the display."""
    scaled = sum(one.pixels.rescale.scale is not None for one in images)
    given = {(one.pixels.rescale.slope, one.pixels.rescale.intercept) for one in images}
    is_lost = 0 < scaled < len(images)
    is_needed = not scaled and len(given) > 1 and any(not name or "philips" in name.lower() for name in manufacturers)
    if not is_lost and not is_needed:
        return None
    found = f"it in {scaled} of {len(images)}" if is_lost else f"none and {len(given)} rescale slopes"
    rule = "all diffusion images must have the private scale slope (2005,xx0E)"
    return Fault("display_values", rule, found, "Send them with their private elements.")


def _refusal(fault: Fault, place: str) -> Refusal:
    return Refusal(fault.code, fault.at(place))


def first_refusal(selection: Selection, rules: Rules) -> Refusal | None:
    """Return the refusal of the first check of `CHECKS` that refuses, else None."""
    return next((refusal for check in CHECKS if (refusal := check(selection, rules)) is not None), None)


def frames_of_reference(series: Iterable[Series]) -> set[str]:
    """Return the Frames of Reference of some series: the coordinate systems that positions are given in."""
    return {image.frame_of_reference_uid for one in series for image in one.instances}


def _unread_files(selection: Selection, rules: Rules) -> Refusal | None:
    """Refuse where a file may have held a part of the study."""
    for code, rule, advice in UNREAD_FILES:
        found = [one for one in selection.skipped if one.code == code]
        if found:
            return Refusal(code, f"{rule}, got {len(found)} ({skip_reasons(found)}). {advice}")
    return None


def _no_dicom(selection: Selection, rules: Rules) -> Refusal | None:
    if selection.series:
        return None
    count = len(selection.skipped)
    held = f"{count} other files ({skip_reasons(selection.skipped)})" if count else "an empty folder"
    return Refusal("no_dicom", f"study must hold DICOM images, got {held}. Name the folder of a study.")


def _several_patients(selection: Selection, rules: Rules) -> Refusal | None:
    count = len({one.series.patient_key for one in selection.series})
    if count == 1:
        return None
    return Refusal("several_patients", f"a study must be of one patient, got {count}. Give each its own folder.")


def _several_studies(selection: Selection, rules: Rules) -> Refusal | None:
    count = len({one.series.study_uid for one in selection.series})
    if count == 1:
        return None
    return Refusal("several_studies", f"a folder must hold one study, got {count}. Give each its own folder.")


def _conflicting_copies(selection: Selection, rules: Rules) -> Refusal | None:
    for one in selection.series:
        if one.series.conflicting_copies:
            return Refusal(
                "conflicting_copies",
                f"objects of one identifier must be the same, got {one.series.conflicting_copies} with copies that "
                f"differ in series {one.series.number}. Send the study again from its archive.",
            )
    return None


def _not_mr(selection: Selection, rules: Rules) -> Refusal | None:
    found = sorted({modality_word(one.series.modality) for one in selection.series})
    if "MR" in found:
        return None
    return Refusal("not_mr", f"modality must be MR, got {', '.join(found) or 'none'}. Send the MR study.")


def _no_t2(selection: Selection, rules: Rules) -> Refusal | None:
    if selection.t2 is not None:
        return None
    near_misses = [one for one in selection.series if one.role == "other" and "EP" not in _readout(one.series)]
    told = f" ({_numbered(near_misses[:3])})" if near_misses else ""
    return Refusal("no_t2", f"study must hold an axial T2 series, got {_roles(selection)}{told}. Send the T2 series.")


def _no_diffusion(selection: Selection, rules: Rules) -> Refusal | None:
    if selection.dwi:
        return None
    named = [one for one in selection.series if one.role == "other" and is_diffusion_by_name(one.series, rules)]
    if named:
        numbers = ", ".join(str(one.series.number) for one in named)
        return Refusal(
            "no_diffusion",
            f"diffusion must have b-values in its headers, got none that is known in series {numbers}, which are "
            "diffusion by their names. Name the place of the b-values with --rules (docs/dicom.md).",
        )
    return Refusal(
        "no_diffusion",
        f"study must hold axial diffusion traces with b-values, got {_roles(selection)}. Send the diffusion series.",
    )


def _other_body_part(selection: Selection, rules: Rules) -> Refusal | None:
    for one in selection.used:
        if one.body_part in rules.other_body_parts:
            return Refusal(
                "other_body_part",
                f"body part must be the prostate or pelvis, got {one.body_part} in series {one.number}. "
                "Send a prostate study.",
            )
    return None


def _one_b_value(selection: Selection, rules: Rules) -> Refusal | None:
    values = sorted(value for one in selection.dwi for value in one.b_values_s_per_mm2)
    if is_enough(values, rules):
        return None
    if len(values) > 1:
        least = rules.min_b_value_spread_s_per_mm2
        return Refusal(
            "one_b_value",
            f"b-values must differ by {least:g} s/mm2 or more, got b {listed(values)} "
            f"in series {selection.dwi[0].series.number}. Send all b-values of the protocol.",
        )
    return Refusal(
        "one_b_value",
        f"diffusion must have two b-values or more of one protocol, got only b {listed(values)} "
        f"in series {selection.dwi[0].series.number}{_others(selection, rules)}. Send all b-values of the protocol.",
    )


def _others(selection: Selection, rules: Rules) -> str:
    """Return what keeps the other diffusion images of a study from joining the one b-value."""
    used = selection.dwi[0].series
    for one in selection.series:
        if one.role == "dwi" and one.series is not used:
            why = difference(used, one.series, rules)
            if why is not None:
                return f"; b {listed(trace_b_values(one.series))} of series {one.series.number} differs: {why}"
    return ""


def _several_frames(selection: Selection, rules: Rules) -> Refusal | None:
    count = len(frames_of_reference(selection.used))
    if count == 1:
        return None
    numbers = ", ".join(str(one.number) for one in selection.used)
    return Refusal(
        "several_frames_of_reference",
        f"T2 and diffusion must share one Frame of Reference, got {count} in series {numbers}. "
        "Send images of one session without repositioning.",
    )


def _truncated(selection: Selection, rules: Rules) -> Refusal | None:
    for one in selection.used:
        broken = [image.instance_number for image in one.instances if not image.pixels.is_complete]
        if broken:
            return Refusal(
                "truncated",
                f"pixel data must be whole, got {len(broken)} images cut short (first: image {broken[0]}) "
                f"in series {one.number}. Send the series again.",
            )
    return None


def _lossy_pixels(selection: Selection, rules: Rules) -> Refusal | None:
    if rules.accept_lossy_pixels:
        return None
    for place, images in image_stacks(selection):
        lossy = sum(image.pixels.is_lossy for image in images)
        if lossy:
            return Refusal(
                "lossy_pixels",
                f"pixel data must be compressed without loss, got {lossy} images with lossy compression in {place}. "
                'Send the original, or accept it with {"accept_lossy_pixels": true} in --rules.',
            )
    return None


def _values(selection: Selection, rules: Rules) -> Refusal | None:
    return value_refusal(selection)


def _broken_stacks(selection: Selection, rules: Rules) -> Refusal | None:
    try:
        found = [(place, stack_images(images, place=place)) for place, images in image_stacks(selection)]
    except StudyRefused as refused:
        return Refusal(refused.code, refused.reason)
    (_, t2), *diffusion = found
    return _different_grids(diffusion) or _no_overlap(t2, diffusion[0][1])


def _different_grids(diffusion: list[tuple[str, Stack]]) -> Refusal | None:
    """Refuse b-values that do not lie on one grid, since the fit compares them voxel by voxel."""
    reference = max((stack for _, stack in diffusion), key=lambda stack: len(stack.instances))
    for place, stack in diffusion:
        if len(stack.instances) != len(reference.instances):
            return Refusal(
                "missing_slice",
                f"every b-value must have {len(reference.instances)} slices, got {len(stack.instances)} in {place}. "
                "Send the series again.",
            )
        if np.abs(stack.affine_ras_mm - reference.affine_ras_mm).max() > POSITION_TOLERANCE_MM:
            return Refusal(
                "mixed_geometry",
                f"b-values must lie on one grid, got another in {place}. Send diffusion series of one protocol.",
            )
    return None


def _no_overlap(t2: Stack, diffusion: Stack) -> Refusal | None:
    """Refuse diffusion that does not cover the centre of the T2 volume, where the prostate is."""
    centre = t2.affine_ras_mm @ np.append((np.array(t2.shape) - 1) / 2, 1.0)
    index = (np.linalg.inv(diffusion.affine_ras_mm) @ centre)[:3]
    if np.all(index >= -0.5) and np.all(index <= np.array(diffusion.shape) - 0.5):
        return None
    return Refusal(
        "no_overlap", "diffusion must cover the centre of the T2 volume, got none there. Send images of one region."
    )


def _readout(series: Series) -> str:
    """Return the scanning sequence of a series."""
    return series.instances[0].scanning_sequence if series.instances else ""


def _numbered(judgements: list[Judgement]) -> str:
    """Return series with the reason of each."""
    return "; ".join(f"series {one.series.number}: {one.reason}" for one in judgements)


def _roles(selection: Selection) -> str:
    """Return the roles found, each once, and whether a linked folder was left out."""
    roles = ", ".join(sorted({one.role for one in selection.series}))
    return f"{roles} ({LINKED_FOLDER})" if any(one.reason == LINKED_FOLDER for one in selection.skipped) else roles


UNREAD_FILES = (
    ("oversized_study", "files of a study must stay within limits", "Send the study again from its archive."),
    ("unreadable_file", "files of a study must be readable", "Check their permissions."),
    ("truncated", "DICOM files must be whole", "Send the study again."),
)
"""Codes of skipped files, what must be, and what to do."""

CHECKS: tuple[Callable[[Selection, Rules], Refusal | None], ...] = (
    _unread_files,
    _no_dicom,
    _several_patients,
    _several_studies,
    _conflicting_copies,
    _not_mr,
    _no_t2,
    _no_diffusion,
    _other_body_part,
    _one_b_value,
    _several_frames,
    _truncated,
    _lossy_pixels,
    _values,
    _broken_stacks,
)
