"""A localiser of the gland is trained: its samples, what it sees of them, and what it leaves behind."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prostate_alm.data.gland import (
    GlandLocation,
    coarse_image,
    gland_of_file,
    locate_by,
    on_coarse_grid,
    volume_of_file,
)
from prostate_alm.data.manifest import StudyRecord
from prostate_alm.data.masks import check_masks
from prostate_alm.data.synthetic import DEFAULT_COHORT, SyntheticCohort
from prostate_alm.training.cohort_member import cohort_in, silence_missing_decoders
from prostate_alm.training.gland_localiser import SPEC, WEIGHTS, Localiser
from prostate_alm.training.lesion_network import DualPathUNet
from prostate_alm.whole_files import replacing, sha256_of_file, write_text_atomically

logger = logging.getLogger(__name__)

SYNTHETIC: SyntheticCohort = DEFAULT_COHORT.model_copy(update={"masks": True})
"""The cohort that is used where none is given."""

_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class GlandSamples:
    """Studies whose gland was drawn, by part: `t2` and `gland` are files, `sample_id` is the study's."""

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    test: list[dict[str, str]]
    manifest: Path
    output_dir: Path


def prepare_localiser(
    *,
    dataset_dir: str,
    manifest: str | None,
    recipe: str | None,
    output_dir: str,
    seed: int,
    threads: int,
    overwrite: bool,
) -> GlandSamples:
    """Return the samples of a localiser from the studies of a cohort whose gland was drawn; nothing is written.

    A fifth of the training patients, drawn by `seed`, validate.

    Args:
        dataset_dir: where a synthetic cohort is made.
        manifest: of a cohort; None for a synthetic one.
        recipe: of a synthetic cohort; None for a small one with masks.
        output_dir: where the localiser will be written.
        seed: of everything random.
        threads: of a processor.
        overwrite: replace a localiser that is there.

    Raises:
        ValueError: the cohort, a mask or the folder cannot be used; one line for each fault.
    """
    silence_missing_decoders()
    folder = Path(output_dir)
    if (folder / SPEC).exists() and not overwrite:
        raise ValueError(
            f"output_dir must hold no localiser, got one in {folder}. Choose another, or give --overwrite true"
        )
    path, cohort = cohort_in(Path(dataset_dir), manifest=manifest, recipe=recipe, synthetic=SYNTHETIC)
    if faults := check_masks(cohort, path):
        raise ValueError("\n".join(faults))
    drawn = [study for study in cohort.studies if study.gland is not None]
    patients = sorted({study.patient for study in drawn if study.split == "train"}, key=lambda one: _drawn(one, seed))
    kept = set(patients[: round(_VALIDATION_SHARE * len(patients))])
    if not kept or len(kept) == len(patients):
        raise ValueError(
            f"manifest must have training patients whose gland was drawn, three or more, got {len(patients)} in "
            f"{path.name}. Build it with masks: data_manifest/README.md"
        )
    if len(drawn) < len(cohort.studies):
        left_out = len(cohort.studies) - len(drawn)
        logger.warning("%d of %d studies have no mask of the gland: left out", left_out, len(cohort.studies))
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for study in drawn:
        part = "validation" if study.split == "train" and study.patient in kept else study.split
        parts[part].append(_sample(study, path.parent))
    return GlandSamples(**parts, manifest=path, output_dir=folder)


def _drawn(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{patient}".encode()).digest()


def _sample(study: StudyRecord, folder: Path) -> dict[str, str]:
    gland = "" if study.gland is None else str(folder / study.gland.path)
    return {"t2": str(folder / study.t2.path), "gland": gland, "sample_id": study.id}


class ReadCoarse:
    """Transform: the files `t2` and `gland` of a sample become `image` and `label`, (1, X, Y, Z) float32.

    Args:
        spacing_mm: of the coarse grid along each axis.
        size: its number of voxels along each axis.
    """

    def __init__(self, spacing_mm: float, size: Sequence[int]) -> None:
        self.spacing_mm, self.size = spacing_mm, tuple(size)

    def __call__(self, sample: Mapping[str, str]) -> dict[str, Any]:
        """Return `image`, `label` and `sample_id`; the label is 1 where half of a voxel is gland."""
        grid: dict[str, Any] = {"spacing_mm": self.spacing_mm, "size": self.size}
        t2, gland = volume_of_file(Path(sample["t2"])), volume_of_file(Path(sample["gland"]))
        share = on_coarse_grid(gland, t2, **grid).voxels
        return {
            "image": torch.from_numpy(coarse_image(t2, **grid).image.voxels)[None],
            "label": torch.from_numpy((share >= 0.5).astype(np.float32))[None],
            "sample_id": sample["sample_id"],
        }


def write_localiser(samples: GlandSamples, network: DualPathUNet, *, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write a trained localiser, and how well it finds the glands of the validation and the test studies.

    Args:
        samples: of `prepare_localiser`.
        network: trained.
        spec: see `localiser_of`.

    Returns:
        What `localiser.json` holds.
    """
    localiser = Localiser(network.cpu().eval(), spacing_mm=spec["spacing_mm"], size=spec["size"])
    figures = {name: _figures(localiser, getattr(samples, name)) for name in ("validation", "test")}
    about = {
        **spec,
        "manifest": samples.manifest.name,
        "manifest_sha256": sha256_of_file(samples.manifest),
        "figures": figures,
        "versions": {name: version(name) for name in ("prostate-alm", "torch", "monai")},
    }
    samples.output_dir.mkdir(parents=True, exist_ok=True)
    with replacing(samples.output_dir / WEIGHTS) as temporary:
        torch.save(network.state_dict(), temporary)
    write_text_atomically(samples.output_dir / SPEC, json.dumps(about, indent=1) + "\n")
    for name, values in figures.items():
        logger.info("%s: %s", name, ", ".join(f"{key} {value}" for key, value in values.items()))
    logger.info("localiser: %s", samples.output_dir)
    return about


def _figures(localiser: Localiser, samples: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return in how many studies the gland was found, and how far its centre lies from that of the mask."""
    errors_mm = []
    for sample in samples:
        found = locate_by(localiser, volume_of_file(Path(sample["t2"])))
        if isinstance(found, GlandLocation):
            truth = gland_of_file(Path(sample["gland"]))
            errors_mm.append(float(np.linalg.norm(np.subtract(found.centre_mm, truth.centre_mm))))
    figures: dict[str, float] = {"studies": len(samples), "found": len(errors_mm)}
    if errors_mm:
        figures |= {"median_mm": round(float(np.median(errors_mm)), 2), "worst_mm": round(max(errors_mm), 2)}
    return figures
