"""Does the classifier use the prostate, and nothing else? AUC of what must be chance beside what must not.

    OMP_NUM_THREADS=1 python benchmarks/pipeline_checks.py DICOM_DIR MANIFEST [--members 2] [--NAME VALUE ...]

Run from the repository root; what is not an option here is a setting of the bundle, the same for all ensembles.
DICOM_DIR is a synthetic cohort (`prostate-alm phantom make`), which knows where the gland lies, MANIFEST what
`prostate-alm manifest build` made of it. Trains ensembles, and prints one row of each as it is there: T2 and
diffusion, T2 only, diffusion only (overrides of the bundle); trained as usual and tested with a ball around the
prostate blanked, or all but that ball; trained and tested without the prostate; trained and tested on labels shuffled
among the studies of each split. Blanked means: the mean of the ball's rim in each channel. Manifests, volumes and
ensembles go beside MANIFEST and into `outputs*` there; what is there is not done again.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from site_shift import run

from prostate_alm.data.manifest import Manifest, StudyRecord, VolumeFile, read_manifest, write_manifest
from prostate_alm.phantom.cohort import plan_study
from prostate_alm.whole_files import sha256_of_file

BUNDLE = Path("bundles", "prostate")
ROW = "| {name} | {auc:.3f} | {low:.3f} to {high:.3f} | {positives} + {negatives} |"
HEAD = "| input and labels | AUC | 95 % interval | test studies |\n|---|---|---|---|"

Keep = Callable[[np.ndarray], np.ndarray]
"""Distance of each voxel from the gland's centre in ball radii -> which voxels are blanked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dicom_dir", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--members", type=int, default=2, help="of each ensemble (default: %(default)s)")
    parser.add_argument("--shuffles", type=int, default=2, help="of the labels (default: %(default)s)")
    parser.add_argument("--radius_mm", type=float, default=34.0, help="of the ball (default: %(default)s)")
    options, options.settings = parser.parse_known_args()
    print(HEAD)
    for name, figures in rows(options):
        print(ROW.format(name=name, **figures), flush=True)


def rows(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    usual = train(options, options.manifest, "outputs")
    yield "T2 and diffusion", own_figures(usual)
    for name, key, channels in (("T2 only", "t2", 1), ("diffusion only", "dwi", 3)):
        chosen = (f"--read_and_normalise#{concatenation()}#keys", [key], "--network_def#path_channels", [channels])
        yield name, own_figures(train(options, options.manifest, f"outputs-{key}", *chosen))
    without = blanked(options, "without-prostate", lambda distance: distance <= 1)
    yield "the same ensemble, prostate blanked", site_figures(usual, without, own=options.manifest)
    only = blanked(options, "prostate-only", lambda distance: distance > 1)
    yield "the same ensemble, all but the prostate blanked", site_figures(usual, only, own=options.manifest)
    yield "trained and tested with the prostate blanked", own_figures(train(options, without, "outputs"))
    for number in range(options.shuffles):
        path = shuffled(options.manifest, seed=number)
        yield f"trained and tested on shuffled labels, {number + 1}", own_figures(train(options, path, "outputs"))


def concatenation() -> int:
    """Return the place of the transform that joins T2 and diffusion in the bundle's list."""
    steps = json.loads((BUNDLE / "train.json").read_text())["read_and_normalise"]
    return next(at for at, step in enumerate(steps) if step["_target_"].endswith("ConcatItemsd"))


def train(options: argparse.Namespace, manifest: Path, outputs: str, *overrides: object) -> Path:
    folder = manifest.parent / outputs / "prostate" / manifest.stem / "bce-alm"
    if not (folder / "metrics.json").is_file():
        where = ("--manifest", manifest, "--output", manifest.parent / outputs, "--tracking_uri", "none")
        run("ensemble", "train", BUNDLE, "--members", options.members, *where, *options.settings, *overrides)
    return folder


def own_figures(folder: Path) -> dict[str, Any]:
    metrics = json.loads((folder / "metrics.json").read_text())
    test, (low, high) = metrics["ensemble"]["test"], metrics["intervals"]["test"]["auc"]
    return {key: test[key] for key in ("auc", "positives", "negatives")} | {"low": low, "high": high}


def site_figures(folder: Path, manifest: Path, *, own: Path) -> dict[str, Any]:
    """Return the figures of an ensemble of the cohort `own`, packed, on the test studies of a manifest."""
    pack = folder / "packed.zip"
    if not pack.is_file():
        run("pack", folder, "--manifest", own, "--output", pack)
    figures = json.loads(run("sites", pack, manifest, "--json"))["sites"][manifest.stem]
    area = figures["auc"]
    counts = {key: figures[key] for key in ("positives", "negatives")}
    return counts | {"auc": area["estimate"], "low": area["low"], "high": area["high"]}


def shuffled(manifest: Path, *, seed: int) -> Path:
    """Write the manifest with labels shuffled within each split: test labels, too, so that chance is exactly 0.5."""
    path = manifest.with_name(f"{manifest.stem}-shuffled-{seed}.json")
    read, random = read_manifest(manifest), np.random.default_rng(seed)
    labels = {
        study.id: int(label)
        for split in ("train", "test")
        for part in [[study for study in read.studies if study.split == split]]
        for study, label in zip(part, random.permutation([study.label for study in part]), strict=True)
    }
    studies = [study.model_copy(update={"label": labels[study.id]}) for study in read.studies]
    write_manifest(read.model_copy(update={"name": path.stem, "studies": tuple(studies)}), path)
    return path


def blanked(options: argparse.Namespace, name: str, chosen: Keep) -> Path:
    """Write the cohort with voxels blanked that lie at a chosen distance from the gland's centre."""
    path = options.manifest.with_name(f"{options.manifest.stem}-{name}.json")
    if not path.is_file():
        read = read_manifest(options.manifest)
        studies = [blanked_study(options, study, path, chosen) for study in read.studies]
        write_manifest(Manifest(**dict(read) | {"name": path.stem, "studies": tuple(studies)}), path)
    return path


def blanked_study(options: argparse.Namespace, study: StudyRecord, path: Path, chosen: Keep) -> StudyRecord:
    settings = json.loads((options.dicom_dir / "cohort.json").read_text())
    settings.pop("version")
    settings["b_values_s_per_mm2"] = tuple(settings["b_values_s_per_mm2"])
    centre_mm = plan_study(int(study.id.rpartition("-")[2]), **settings).centre_mm
    folder = path.with_suffix("") / study.id
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, volume in (("t2", study.t2), ("dwi", study.dwi)):
        image = nib.load(options.manifest.parent / volume.path)
        voxels = blank(image, chosen, centre_mm=centre_mm, radius_mm=options.radius_mm)
        file = folder / f"{kind}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, image.affine), file)
        files[kind] = VolumeFile(path=file.relative_to(path.parent).as_posix(), sha256=sha256_of_file(file))
    return study.model_copy(update=files)


def blank(image: Any, chosen: Keep, *, centre_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return the voxels (I, J, K) or (I, J, K, B), the chosen ones with the mean of the ball's rim in each channel."""
    voxels = image.get_fdata(dtype=np.float32).copy()
    index = np.indices(voxels.shape[:3]).reshape(3, -1)
    place = image.affine[:3, :3] @ index + image.affine[:3, 3:]  # (3, V) in RAS mm
    away = place * np.array([[-1.0], [-1.0], [1.0]]) - np.asarray(centre_mm)[:, None]  # LPS, as the plan has it
    distance = (np.linalg.norm(away, axis=0) / radius_mm).reshape(voxels.shape[:3])
    rim = (distance > 1) & (distance < 1.15)
    voxels[chosen(distance)] = voxels[rim].mean(axis=0)
    return voxels


if __name__ == "__main__":
    main()
