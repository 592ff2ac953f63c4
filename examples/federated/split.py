"""Deal the training studies of a cohort out to sites, as if each were a hospital of its own.

    python examples/federated/split.py data/cohort.json 2

writes data/cohort-site-1-of-2.json and data/cohort-site-2-of-2.json beside the manifest. Each site has its share of
both classes; the test studies are in all of them, so that models can be compared.
"""

import argparse
from pathlib import Path

import numpy as np

from prostate_alm.data.manifest import read_manifest, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("sites", type=int)
    options = parser.parse_args()
    for path in split(options.manifest, options.sites):
        print(path)


def split(manifest: Path, sites: int, *, seed: int = 0) -> list[Path]:
    """Return the manifests of the sites; those that are there already are written again, the same."""
    whole, random = read_manifest(manifest), np.random.default_rng(seed)
    test = [study for study in whole.studies if study.split == "test"]
    dealt: list[list[str]] = [[] for _ in range(sites)]
    for label in (0, 1):
        ids = [study.id for study in whole.studies if study.split == "train" and study.label == label]
        for place, key in enumerate(random.permutation(ids).tolist()):
            dealt[place % sites].append(key)
    paths = [manifest.with_name(f"{manifest.stem}-site-{k}-of-{sites}.json") for k in range(1, sites + 1)]
    for path, ids in zip(paths, dealt, strict=True):
        own = [study for study in whole.studies if study.id in set(ids)]
        write_manifest(whole.model_copy(update={"name": path.stem, "studies": (*own, *test)}), path)
    return paths


if __name__ == "__main__":
    main()
