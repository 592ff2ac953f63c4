"""The slices of a report as data for its viewer: `viewer.js` scrolls, windows, zooms and overlays them."""

from __future__ import annotations

import base64
import json
import zlib
from itertools import accumulate
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import Prediction
from prostate_alm.delivery.report import candidates, figures, panels
from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.report.words import Words

STEPS = 4095
"""Grey values are stored in 12 bits, between the smallest and the greatest of a volume: finer than the eye by far."""
SALIENCY_STEPS = 127
"""Saliency is stored as a share of its greatest value."""
VOXELS_MAX = 24_000_000
"""Of all volumes together, about 30 MB of page; a study of more is shown without the viewer."""


def viewer_json(views: Views, card: ModelCard, answer: Prediction, words: Words) -> Markup:
    """Return what the viewer reads, as JSON that may stand within a script element; '' for more than `VOXELS_MAX`.

    Args:
        views: the study.
        card: of the model.
        answer: to the study.
        words: language of the names.
    """
    shown = panels.shown_images(views, answer, words)
    if len(shown) * views.t2.size > VOXELS_MAX:
        return Markup("")
    content = {
        "size": list(views.t2.shape),
        "spacing_mm": list(views.spacing_mm[:2]),
        "field": views.field,
        "first": views.first_slice,
        "of": views.slices_in_series,
        "start": views.peaks[0][2] if views.peaks else views.peak,
        "layers": _layers(shown, views, card, answer, words),
        "saliency": [_packed_saliency(one) for one in views.saliency],
        **({} if not views.peaks or views.labels is None else {"labels": _deflated(views.labels.T.tobytes())}),
        "floor": figures.SALIENCY_FLOOR,
        "opacity": figures.SALIENCY_OPACITY,
        "raises": figures.RAISES,
        "lowers": figures.LOWERS,
        "outline": candidates.OUTLINE,
        "bar_mm": figures.SCALE_BAR_MM,
        "slice": words.texts["slice"],
    }
    return Markup(json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def _layers(
    shown: list[panels.PanelImage], views: Views, card: ModelCard, answer: Prediction, words: Words
) -> list[dict[str, Any]]:
    """Return each volume with what stands below it: the image of the slice, or how it was computed."""
    ends = list(accumulate(card.network.path_channels))
    path_of_channel = [next(k for k, end in enumerate(ends) if channel < end) for channel in range(ends[-1])]
    scanner = () if views.scanner_adc is None else views.scanner_adc.images
    images = [views.t2_images, *views.diffusion_images, *[()] * (views.adc_um2_per_s is not None), scanner]
    computed = words("b.source_computed", acquired=words.numbers(answer.b_values_acquired_s_per_mm2))
    layers = []
    for number, ((name, voxels, window), named) in enumerate(zip(shown, images, strict=False)):
        is_map = number >= len(path_of_channel)
        layers.append(
            {
                "name": name,
                "window": list(window),
                "path": len(ends) - 1 if is_map else path_of_channel[number],
                "images": [words.image(one) for one in named],
                "source": words("adc.source") if is_map else computed,
                "unit": words("adc.unit") if is_map else "",
                **_packed_values(voxels),
            }
        )
    return layers


def _packed_values(voxels: NDArray[np.floating]) -> dict[str, Any]:
    """Return values (X, Y, Z) as whole steps from the smallest: value = low + step * stored."""
    low, high = float(voxels.min()), float(voxels.max())
    step = (high - low) / STEPS or 1.0
    stored = np.round((voxels.transpose(2, 1, 0) - low) / step).astype("<u2")  # (Z, Y, X)
    return {"low": low, "step": step, "data": packed(stored)}


def packed(steps: NDArray[np.uint16]) -> str:
    """Return whole numbers (Z, Y, X) as base64 of deflated differences along rows, all low bytes before all high ones.

    >>> raw = zlib.decompress(base64.b64decode(packed(np.array([[[258, 259, 2]]], np.uint16))))
    >>> list(raw)  # 258 = 1 * 256 + 2, then +1, then -257
    [2, 1, 255, 1, 0, 254]
    """
    differences = np.diff(steps.astype("<u2"), axis=2, prepend=np.uint16(0))
    low_and_high = np.ascontiguousarray(differences).view(np.uint8).reshape(-1, 2)
    return _deflated(low_and_high.T.tobytes())


def _packed_saliency(saliency: NDArray[np.floating]) -> str:
    greatest = float(np.abs(saliency).max()) or 1.0
    shares = np.round(saliency.transpose(2, 1, 0) * (SALIENCY_STEPS / greatest)).astype(np.int8)
    return _deflated(shares.tobytes())


def _deflated(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 6)).decode()
