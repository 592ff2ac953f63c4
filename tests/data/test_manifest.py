"""The manifest: what the schema takes and refuses, and what the checksums find."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.data.manifest import Manifest, ManifestError, check_files, read_manifest, write_manifest
from prostate_alm.whole_files import sha256_of_file, write_text_atomically

README = Path(__file__).resolve().parents[2] / "data_manifest" / "README.md"


@pytest.fixture
def content(cohort: Path) -> dict[str, Any]:
    return json.loads(cohort.read_text())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def to_file(text: Any) -> Path:
        path = tmp_path / "manifest.json"
        path.write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
        return path

    return to_file


def test_reading_and_writing_give_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    write_manifest(read_manifest(cohort), tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == cohort.read_bytes()


def test_the_checksum_is_that_of_hashlib(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def change(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted place replaced."""
    changed = copy.deepcopy(content)
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    node: Any = changed
    for part in parents:
        node = node[part]
    node[last] = value
    return changed


FAULTS = {
    "another version": ("schema_version", 4, "at schema_version"),
    "an unknown key": ("studies.0.lable", 1, "at studies.0.lable"),
    "label 2": ("studies.0.label", 2, "at studies.0.label"),
    "label as text": ("studies.0.label", "1", "at studies.0.label"),
    "an unknown split": ("studies.0.split", "validation", "at studies.0.split"),
    "no studies": ("studies", [], "at studies"),
    "an absolute path": ("studies.0.t2.path", "/data/t2.nii.gz", "relative to the manifest.*at studies.0.t2.path"),
    "a path that leaves": ("studies.0.t2.path", "a/../../t2.nii.gz", "relative to the manifest"),
    "a drive": ("studies.0.t2.path", "C:/t2.nii.gz", "relative to the manifest"),
    "no checksum": ("studies.0.dwi.sha256", "", "at studies.0.dwi.sha256"),
    "a negative b-value": ("b_values_s_per_mm2", [-100, 600, 1000], "at b_values_s_per_mm2.0"),
    "no number as b-value": ("b_values_s_per_mm2", [float("nan"), 600, 1000], "at b_values_s_per_mm2.0"),
    "b-values twice": ("b_values_s_per_mm2", [600, 600, 1000], "must be distinct"),
    "a flag missing": ("studies.0.b_values_computed", [True], "one flag per b-value"),
    "an id twice": ("studies.1.id", "PHANTOM-0001", "unique, got 'PHANTOM-0001'"),
    "an id used and refused": ("refused", [{"id": "PHANTOM-0001", "code": "c", "reason": "r"}], "unique"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_breach_of_the_schema_is_named_in_one_line(
    content: dict[str, Any], write: Callable[[Any], Path], fault: str
) -> None:
    place, value, message = FAULTS[fault]
    with pytest.raises(ManifestError, match=f"manifest must follow schema version 1.*{message}") as caught:
        read_manifest(write(change(content, place, value)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_patient_in_two_splits_is_refused(content: dict[str, Any], write: Callable[[Any], Path]) -> None:
    train = next(study for study in content["studies"] if study["split"] == "train")
    test = next(study for study in content["studies"] if study["split"] == "test")
    train["patient"] = test["patient"]
    with pytest.raises(ManifestError, match="a patient must lie in one split"):
        read_manifest(write(content))


@pytest.mark.parametrize("text", [b"", b"{", b"id,label\na,1\n", b"\xff\xfe{}", b"[" * 100_000])
def test_what_is_not_json_is_refused_in_one_line(write: Callable[[Any], Path], text: bytes) -> None:
    with pytest.raises(ManifestError, match="manifest must be JSON, got ") as caught:
        read_manifest(write(text))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [[], 3, {}, {"name": "x"}])
def test_json_of_another_kind_is_refused(write: Callable[[Any], Path], value: Any) -> None:
    with pytest.raises(ManifestError, match="manifest must follow schema version 1"):
        read_manifest(write(value))


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_manifest_that_cannot_be_opened_says_how_to_build_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=r"must be a readable file.*Build one with: prostate-alm manifest build"):
        read_manifest(tmp_path / name)


def test_checksums_find_the_missing_and_the_changed_volume(cohort: Path, tmp_path: Path) -> None:
    manifest = read_manifest(cohort)
    chosen = manifest.model_copy(update={"studies": manifest.studies[:3]})
    for study in chosen.studies:
        (tmp_path / study.t2.path).parent.mkdir(parents=True)
        for volume in (study.t2, study.dwi):
            shutil.copy(cohort.parent / volume.path, tmp_path / volume.path)
    assert check_files(chosen, tmp_path / "cohort.json") == []
    (tmp_path / chosen.studies[0].t2.path).unlink()
    with (tmp_path / chosen.studies[2].dwi.path).open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)[0]
        stream.seek(1000)
        stream.write(bytes([byte ^ 1]))  # one bit
    seen: list[tuple[int, int]] = []
    missing, changed = check_files(chosen, tmp_path / "cohort.json", progress=lambda *done: seen.append(done))
    assert missing.startswith("t2 of study PHANTOM-0001 must exist, got no file")
    assert changed.startswith("dwi of study PHANTOM-0003 must have the manifest's SHA-256, got another")
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_text_atomically(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\ud800")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("must go through Path.replace"))
    monkeypatch.setattr(Path, "replace", _no_space)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_the_documented_example_follows_the_schema_and_every_field_is_documented() -> None:
    text = README.read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    manifest = Manifest.model_validate_json(example)
    documented = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}

    def fields(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for inner in value.values() for name in fields(inner)}
        return {name for inner in value for name in fields(inner)} if isinstance(value, list | tuple) else set()

    assert fields(manifest.model_dump()) <= documented
