"""Whether the stored values of the images that are used can be compared with each other: asked of the headers."""

from __future__ import annotations

from collections.abc import Sequence

from prostate_alm.imaging.dicom import Instance
from prostate_alm.imaging.pixels import Fault
from prostate_alm.imaging.planes import size_fault
from prostate_alm.imaging.selection import Refusal, Selection, image_stacks


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
