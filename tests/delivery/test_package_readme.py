"""The model card of a pack: what its thresholds rest on, and nobody's name."""

import zipfile
from pathlib import Path

import pytest

from prostate_alm.delivery.package.opened import PackedModel

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


def test_the_model_card_says_what_the_thresholds_rest_on(packed_file: Path, packed_model: PackedModel) -> None:
    with zipfile.ZipFile(packed_file) as packed:
        text = packed.read("prostate/docs/README.md").decode()
    point = packed_model.card.operating_point()
    for words in (
        "Research use only, not for diagnosis.",
        "The data are synthetic",
        f"chosen on {point.positives} positive and {point.negatives} negative training studies",
        f"| 95 % (default) | {point.threshold:.3f} [",
        "| train | 30 studies, 11 positive |",
        "| AUC | 80.0 % | 60.0 to 95.0 % |",
    ):
        assert words in text, words
