from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from prostate_alm.data.manifest import read_manifest
from prostate_alm.data.volume_cache import VolumeCache

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs

CONFIG = Path(__file__).resolve().parents[2] / "bundles" / "prostate" / "train.json"


def reading(**changes: Any) -> list[Any]:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    parser.update(changes)
    steps: list[Any] = parser.get_parsed_content("read_and_normalise")
    return steps


def studies(cohort: Path, count: int) -> list[dict[str, Any]]:
    return [
        {
            "t2": str(cohort.parent / study.t2.path),
            "dwi": str(cohort.parent / study.dwi.path),
            "volumes_sha256": (study.t2.sha256, study.dwi.sha256),
            "label": study.label,
            "sample_id": study.id,
        }
        for study in read_manifest(cohort).studies[:count]
    ]


@pytest.fixture(scope="module")
def steps() -> list[Any]:
    return reading()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*.npy")}


def test_an_image_is_what_the_transforms_give(cohort: Path, steps: Sequence[Any], tmp_path: Path) -> None:
    samples = studies(cohort, 2)
    made = VolumeCache(tmp_path, steps).images(samples)
    assert [set(sample) for sample in made] == [{"image", "label", "sample_id"}] * 2
    for sample, source in zip(made, samples, strict=True):
        expected = Compose(reading())(source)
        np.testing.assert_array_equal(sample["image"].numpy(), np.asarray(expected["image"]))  # type: ignore[call-overload]
        assert (sample["label"], sample["sample_id"]) == (source["label"], source["sample_id"])


def test_the_members_after_the_first_take_no_disk_and_read_no_volume(
    cohort: Path, steps: Sequence[Any], tmp_path: Path
) -> None:
    samples = studies(cohort, 2)
    first = VolumeCache(tmp_path, steps).images(samples)
    before = contents(tmp_path)
    for sample in samples:
        sample["t2"] = sample["dwi"] = "/nowhere"
    again = VolumeCache(tmp_path, reading()).images(samples[::-1])
    assert contents(tmp_path) == before
    assert len(before) == 2
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(first, again[::-1], strict=True))


def test_other_transforms_have_images_of_their_own(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"spacing_mm": [3.0, 3.0, 3.0]},
        {"cached_size": [40, 46, 22]},
        {"read_and_normalise#4#channel_wise": False},
    ]
    assert len({VolumeCache(tmp_path, reading(**change)).folder for change in changes}) == 4


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_volume_has_an_image_of_its_own(
    cohort: Path, steps: Sequence[Any], which: int, tmp_path: Path
) -> None:
    (sample,) = studies(cohort, 1)
    cache = VolumeCache(tmp_path, steps)
    sums = [*sample["volumes_sha256"]]
    sums[which] = sums[which][::-1]
    assert cache.path(sample | {"volumes_sha256": tuple(sums)}) != cache.path(sample)


class Counting:
    """A transform that takes a while and leaves a mark for each time it ran."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        mark = self.marks / str(len(list(self.marks.iterdir())))
        mark.touch()
        return sample | {"image": np.full((1, 2), float(sample["label"]), dtype=np.float32)}


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"volumes_sha256": (str(i), ""), "label": i, "sample_id": str(i)} for i in range(count)]


def test_members_that_start_at_once_make_each_image_once(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    caches = [VolumeCache(tmp_path / "c", [Counting(marks)]) for _ in range(2)]
    with ThreadPoolExecutor() as pool:  # the lock tells its holders apart, threads as processes
        both = list(pool.map(lambda cache: cache.images(numbered(40)), caches))
    assert [[float(sample["image"].sum()) for sample in made] for made in both] == [[2.0 * i for i in range(40)]] * 2
    assert len(list(marks.iterdir())) == 40
    assert len(contents(tmp_path / "c")) == 40


def test_what_a_full_disk_left_is_made_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    cache = VolumeCache(tmp_path / "cache", [Counting(marks)])
    cache.images(numbered(1))
    for broken in (b"", cache.path(numbered(1)[0]).read_bytes()[:-3]):
        cache.path(numbered(1)[0]).write_bytes(broken)
        assert cache.images(numbered(1))[0]["image"].tolist() == [[0.0, 0.0]]
    assert len(list(marks.iterdir())) == 3
