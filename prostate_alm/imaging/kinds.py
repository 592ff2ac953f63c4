"""What one image is with respect to diffusion; a series may mix several kinds (Philips)."""

from __future__ import annotations

from collections.abc import Sequence

from prostate_alm.imaging.bvalue import is_b_value_range
from prostate_alm.imaging.rulebook import Rules, found_in


def image_kind(
    image_type: Sequence[str],
    description: str,
    *,
    is_diffusion_weighted: bool,
    sequence_name: str,
    directionality: str,
    rules: Rules,
) -> str:
    """Return what one image is: none, adc, computed, direction or trace.

    ImageType is believed when it says ADC, not when it says TRACEW: computed images carry that, too.

    Args:
        image_type: words of ImageType or FrameType, in capitals.
        description: the series' description.
        is_diffusion_weighted: it has a b-value that means diffusion.
        sequence_name: name of the pulse sequence.
        directionality: as `find_b_value` returns it.
        rules: words that mark maps and computed images.

    Example:
        >>> from prostate_alm.imaging.rulebook import default_rules
        >>> told = {"sequence_name": "*ep_b50_800", "directionality": "", "rules": default_rules()}
        >>> image_kind(("DERIVED", "TRACEW"), "ep2d_diff", is_diffusion_weighted=True, **told)
        'computed'
    """
    is_trace = any(word.startswith("TRACE") for word in image_type)
    if not set(rules.map_image_types).isdisjoint(image_type):
        return "adc"
    if not is_trace and found_in(description, rules.adc_patterns):
        return "adc"
    if not is_diffusion_weighted:
        return "none"
    if is_b_value_range(sequence_name) or found_in("\\".join((*image_type, description)), rules.computed_patterns):
        return "computed"
    is_direction = directionality == "DIRECTIONAL" or (directionality == "BMATRIX" and not is_trace)
    return "direction" if is_direction else "trace"
