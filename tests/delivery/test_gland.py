"""A pack with a localiser: its crop follows the gland, and doubt is a warning or a refusal, as the pack says."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from prostate_alm.cli import main
from prostate_alm.data.gland import AT_BORDER, NOT_FOUND, coarse_image
from prostate_alm.delivery.answers import answer_from_json, answer_to_json
from prostate_alm.delivery.card import GLAND_FORMAT_VERSION
from prostate_alm.delivery.gland import GlandFirst
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.network import blank_network
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.zip_files import METADATA, MODEL, PackageError
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.preprocess import network_input, placed_around
from prostate_alm.delivery.sites import SiteError, evaluate_sites
from prostate_alm.training.gland_localiser import SPEC, WEIGHTS, localiser_of

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE, LICENCE = REPOSITORY / "bundles" / "prostate", REPOSITORY / "LICENSE"
NETWORK = {"features": [2, 2], "strides": [[2, 2, 1], [2, 2, 2]], "spacing_mm": 4.0, "size": [48, 48, 24]}


class Ball:
    """In place of a trained network: one that says of every image that a ball in it is the gland."""

    spacing_mm, size = 4.0, (48, 48, 24)

    def __init__(self, middle: tuple[int, int, int]) -> None:
        index = np.stack(np.meshgrid(*map(np.arange, self.size), indexing="ij"), axis=-1)
        self.map = torch.from_numpy((((index - np.array(middle)) ** 2).sum(axis=-1) <= 36).astype(np.float32))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.map.expand(image.shape)


def localiser(folder: Path, *, seed: int = 0) -> Path:
    """Write a localiser of random weights, which finds nothing: its first bias says that glands are rare."""
    torch.manual_seed(seed)
    folder.mkdir()
    torch.save(localiser_of(NETWORK).network.state_dict(), folder / WEIGHTS)
    (folder / SPEC).write_text(json.dumps(NETWORK))
    return folder


@pytest.fixture(scope="module")
def ensemble(make_ensemble: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ensemble(tmp_path_factory.mktemp("gland") / "bce-alm", settings={"crop": "gland"})


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localiser(tmp_path_factory.mktemp("localisers") / "blind")


def pack(ensemble: Path, output: Path, gland: GlandFirst | None) -> PackedModel:
    pack_ensemble(
        ensemble,
        output,
        origins=Origins(manifest=ensemble / "cohort.json", bundle=BUNDLE, gland=gland),
        label=PackLabel(licence=LICENCE),
    )
    return open_package(output)


@pytest.fixture(scope="module")
def model(ensemble: Path, blind: Path) -> PackedModel:
    return pack(ensemble, ensemble.parent / "gland.zip", GlandFirst(blind))


def test_the_pack_holds_the_localiser_and_monai_loads_its_weights(model: PackedModel, ensemble: Path) -> None:
    assert model.card.format_version == GLAND_FORMAT_VERSION
    with zipfile.ZipFile(ensemble.parent / "gland.zip") as archive:
        metadata = json.loads(archive.read(f"gland/{METADATA}"))
        state = torch.load(BytesIO(archive.read(f"gland/{MODEL}")), weights_only=True)
    blank_network(metadata).load_state_dict(state, strict=True)


def test_the_image_lies_around_the_gland_and_the_answer_says_so(model: PackedModel, phantom_study: Path) -> None:
    found = predict_folder(phantom_study, replace(model, localiser=Ball((31, 20, 12))))
    crop, volumes = found.answer.crop, found.volumes
    assert crop is not None
    assert found.answer.schema_version == "1.3"
    coarse = coarse_image(volumes.t2, spacing_mm=4.0, size=(48, 48, 24)).image
    middle_mm = (coarse.affine_ras_mm @ [31, 20, 12, 1])[:3] * [-1, -1, 1]
    assert crop.around == "gland"
    np.testing.assert_allclose(crop.centre_mm, middle_mm, atol=0.06)
    assert all(low < middle < high for low, middle, high in zip(crop.low_mm, crop.centre_mm, crop.high_mm, strict=True))
    expected = network_input(volumes, placed_around(model.card.grid, volumes.t2, tuple(middle_mm)))
    assert torch.equal(found.image, expected)
    assert not torch.equal(found.image, network_input(volumes, model.card.grid))
    text = answer_to_json(found.answer)
    assert answer_to_json(answer_from_json(text)) == text


def test_in_doubt_the_crop_is_the_middle_with_a_warning(model: PackedModel, phantom_study: Path) -> None:
    for network, code in ((model.localiser, NOT_FOUND), (Ball((4, 24, 12)), AT_BORDER)):
        found = predict_folder(phantom_study, replace(model, localiser=network))
        assert [one.code for one in found.answer.warnings].count(code) == 1
        assert found.answer.crop.model_dump(exclude_none=True) == {"around": "centre"}
        assert torch.equal(found.image, network_input(found.volumes, model.card.grid))


def test_a_pack_may_refuse_in_doubt(ensemble: Path, blind: Path, phantom_study: Path, tmp_path: Path) -> None:
    given = [str(ensemble), "--output", str(tmp_path / "strict.zip"), "--manifest", str(ensemble / "cohort.json")]
    assert main(["pack", *given, "--gland", str(blind), "--without-gland", "refuse"]) == 0
    answer = predict_folder(phantom_study, open_package(tmp_path / "strict.zip")).answer
    assert answer.status == "refused"
    assert answer.code == NOT_FOUND


def test_a_site_is_judged_by_the_crops_of_its_answers(model: PackedModel, cohort: Path, dicom_cohort: Path) -> None:
    around = replace(model, localiser=Ball((31, 20, 12)))
    _, scores = evaluate_sites(around, [cohort])
    name, logit = scores["cohort"].ids[0], scores["cohort"].logits[0]
    answers = [predict_folder(dicom_cohort / name, one).answer for one in (around, model)]
    assert logit == pytest.approx(answers[0].logit, abs=1e-4)
    assert logit != pytest.approx(answers[1].logit, abs=1e-3)  # around the middle
    strict = model.card.model_copy(update={"gland": model.card.gland.model_copy(update={"on_doubt": "refuse"})})
    with pytest.raises(SiteError, match="must be of both classes, got 0 positive of 0"):  # all refused
        evaluate_sites(replace(model, card=strict), [cohort])


def test_members_are_packed_with_the_crop_of_their_training(
    ensemble: Path, ensemble_folder: Path, blind: Path, make_ensemble: Callable[..., Path], tmp_path: Path
) -> None:
    for folder, gland in ((ensemble, None), (ensemble_folder, GlandFirst(blind))):
        with pytest.raises(PackageError, match="crop must be that of the members' training"):
            pack(folder, tmp_path / "a.zip", gland)
    own = make_ensemble(tmp_path / "own", settings={"crop": "gland"}, localiser_sha256="0" * 64)
    with pytest.raises(PackageError, match="localiser must be the one that the members were trained with"):
        pack(own, tmp_path / "a.zip", GlandFirst(blind))
    with pytest.raises(PackageError, match="localiser must be a folder that bundles/gland wrote"):
        pack(ensemble, tmp_path / "a.zip", GlandFirst(tmp_path))
