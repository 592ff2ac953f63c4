"""Building a manifest: volumes against the reader, the same bytes every time, bad studies listed, nothing lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pydicom
import pytest

from prostate_alm.data import convert
from prostate_alm.data.build import BuildResult, CohortPlan, DicomCohort, build_manifest
from prostate_alm.data.labels import read_labels
from prostate_alm.data.manifest import ManifestError, check_files, read_manifest
from prostate_alm.data.splits import SplitError

NAME, ID, BIRTH_DATE = "PLANTED^NAME", "PLANTED-ID-77", "19330303"


def link(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source, target_is_directory=True)
    return target


def write_labels(folder: Path, rows: dict[str, int], **columns: dict[str, str]) -> Path:
    lines = [",".join(["id", "label", *columns])]
    lines += [
        ",".join([name, str(label), *(values[name] for values in columns.values())]) for name, label in rows.items()
    ]
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def six(dicom_cohort: Path, cohort: Path, tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """Return a folder of six studies, three of each class, and their labels; `tmp_path/c` holds their volumes."""
    by_class: dict[int, list[str]] = {0: [], 1: []}
    for label in read_labels(dicom_cohort / "labels.csv"):
        by_class[label.label].append(label.id)
    labels = {name: value for value, names in by_class.items() for name in names[:3]}
    for name in labels:
        link(dicom_cohort / name, tmp_path / "dicom" / name)
        shutil.copytree(cohort.with_suffix("") / name, tmp_path / "c" / name)
    return tmp_path / "dicom", labels


def series_files(study: Path, series: str) -> list[Path]:
    """Return the files of a series by position along z, lowest first."""
    files = (study / series).glob("*.dcm")
    return sorted(files, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def edit(paths: list[Path], **elements: str) -> None:
    for path in paths:
        image = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(image, keyword, value)
        image.save_as(path)


# How a good study is spoilt, and the code that docs/dicom.md gives for it. PHANTOM-0003 has three diffusion series.


def without_t2(study: Path) -> None:
    shutil.rmtree(study / "03-t2-axial")


def without_diffusion(study: Path) -> None:
    for folder in study.glob("0[456]-diffusion*"):
        shutil.rmtree(folder)


def with_one_b_value(study: Path) -> None:
    for folder in sorted(study.glob("*-diffusion*"))[1:]:
        shutil.rmtree(folder)


def without_a_slice(study: Path) -> None:
    files = series_files(study, "03-t2-axial")
    files[len(files) // 2].unlink()


def in_two_frames(study: Path) -> None:
    edit(series_files(study, "03-t2-axial"), FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.1")


def cut_in_pixels(study: Path) -> None:
    path = series_files(study, "03-t2-axial")[3]
    path.write_bytes(path.read_bytes()[:-2000])


def cut_in_header(study: Path) -> None:
    path = series_files(study, "03-t2-axial")[3]
    path.write_bytes(path.read_bytes()[:700])


def not_dicom(study: Path) -> None:
    shutil.rmtree(study)
    study.mkdir()
    (study / "image.dcm").write_text("this is no DICOM file")


def empty(study: Path) -> None:
    shutil.rmtree(study)
    study.mkdir()


BAD: dict[Callable[[Path], None], str] = {
    without_t2: "no_t2",
    without_diffusion: "no_diffusion",
    with_one_b_value: "one_b_value",
    without_a_slice: "missing_slice",
    in_two_frames: "several_frames_of_reference",
    cut_in_pixels: "truncated",
    cut_in_header: "truncated",
    not_dicom: "no_dicom",
    empty: "no_dicom",
}


def test_a_build_goes_on_past_every_kind_of_bad_study(
    six: tuple[Path, dict[str, int]], dicom_cohort: Path, tmp_path: Path
) -> None:
    dicom, labels = six
    for spoil in BAD:
        shutil.copytree(dicom_cohort / "PHANTOM-0003", dicom / spoil.__name__)
        spoil(dicom / spoil.__name__)
    table = write_labels(tmp_path, labels | {spoil.__name__: 0 for spoil in BAD})
    seen: list[tuple[int, int]] = []
    output = tmp_path / "c.json"
    result = build_manifest(
        DicomCohort(dicom, table), CohortPlan(output, test_share=0.34), progress=lambda *done: seen.append(done)
    )
    assert {study.id: study.code for study in result.manifest.refused} == {
        spoil.__name__: code for spoil, code in BAD.items()
    }
    assert all(study.reason and "\n" not in study.reason for study in result.manifest.refused)
    assert [study.id for study in result.manifest.studies] == sorted(labels)
    assert read_manifest(output) == result.manifest
    assert check_files(result.manifest, output) == []
    assert seen == [(done, 15) for done in range(1, 16)]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == sorted(labels)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_input_gives_the_same_bytes_and_a_second_build_converts_nothing(
    six: tuple[Path, dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom, labels = six
    table = write_labels(tmp_path, labels)
    fresh = tmp_path / "fresh"
    (fresh / "c").mkdir(parents=True)
    names = sorted(labels)
    for name in names[2:]:  # two studies are converted again, four were by the session's fixture
        shutil.copytree(tmp_path / "c" / name, fresh / "c" / name)
    build_manifest(DicomCohort(dicom, table), CohortPlan(fresh / "c.json"))
    monkeypatch.setattr(convert, "load_study", lambda *_, **__: pytest.fail("converted again"))
    build_manifest(DicomCohort(dicom, table), CohortPlan(tmp_path / "c.json"))
    first, second = snapshot(fresh), snapshot(tmp_path / "c") | {"c.json": (tmp_path / "c.json").read_bytes()}
    assert {name: first[name] for name in first if "/" not in name} == {"c.json": second["c.json"]}
    assert {name: data for name, data in first.items() if name != "c.json"} == {
        f"c/{name}": data for name, data in second.items() if name != "c.json"
    }
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    build_manifest(DicomCohort(dicom, table), CohortPlan(tmp_path / "c.json", overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == before


def test_two_workers_give_the_bytes_of_one(dicom_cohort: Path, cohort: Path, tmp_path: Path) -> None:
    dicom, output = tmp_path / "dicom", tmp_path / "w.json"
    labels = {label.id: label.label for label in read_labels(dicom_cohort / "labels.csv")[:8]}
    for name in labels:
        link(dicom_cohort / name, dicom / name)
        if name != "PHANTOM-0008":
            shutil.copytree(cohort.with_suffix("") / name, tmp_path / "w" / name)
    (dicom / "PHANTOM-0000").mkdir()
    table = write_labels(tmp_path, labels | {"PHANTOM-0000": 0})
    seen: list[int] = []
    result = build_manifest(
        DicomCohort(dicom, table), CohortPlan(output), workers=2, progress=lambda done, _: seen.append(done)
    )
    assert [study.id for study in result.manifest.studies] == sorted(labels)
    assert [study.id for study in result.manifest.refused] == ["PHANTOM-0000"]
    assert seen == list(range(1, 10))
    for name in labels:
        assert snapshot(tmp_path / "w" / name) == snapshot(cohort.with_suffix("") / name)


def test_a_manifest_is_overwritten_only_on_request(six: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    dicom, labels = six
    table, output = write_labels(tmp_path, labels), tmp_path / "c.json"
    output.write_text("somebody's work")
    before = snapshot(tmp_path / "c")
    with pytest.raises(ManifestError, match=r"output must not exist, got .*c\.json"):
        build_manifest(DicomCohort(dicom, table), CohortPlan(output))
    assert output.read_text() == "somebody's work"
    assert snapshot(tmp_path / "c") == before
    build_manifest(DicomCohort(dicom, table), CohortPlan(output, overwrite=True))
    assert len(read_manifest(output).studies) == 6


def test_volumes_never_replace_dicom_files_or_those_of_others(six: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    dicom, labels = six
    table = write_labels(tmp_path, labels)
    study = dicom / sorted(labels)[0]
    for output in (dicom.with_suffix(".json"), study.with_suffix(".json"), study / "c.json"):
        with pytest.raises(ManifestError, match="must not go among the DICOM files"):
            build_manifest(DicomCohort(dicom, table), CohortPlan(output))
        assert not output.exists()
    theirs = tmp_path / "d" / sorted(labels)[3]
    theirs.mkdir(parents=True)
    (theirs / "t2.nii.gz").write_text("not ours")
    with pytest.raises(ManifestError, match=r"must be absent or hold its study\.json, got .*without one"):
        build_manifest(DicomCohort(dicom, table), CohortPlan(tmp_path / "d.json"))
    assert snapshot(tmp_path / "d") == {f"{theirs.name}/t2.nii.gz": b"not ours"}


def test_a_manifest_may_lie_in_the_dicom_folder_with_its_volumes(
    six: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    dicom, labels = six
    (tmp_path / "c").rename(dicom / "c")
    for _ in range(2):
        result = build_manifest(
            DicomCohort(dicom, write_labels(dicom, labels)), CohortPlan(dicom / "c.json", overwrite=True)
        )
    assert result.unlabelled == ()
    assert check_files(result.manifest, dicom / "c.json") == []


ARGUMENTS = {
    "output must end in .json": {"output": Path("cohort.txt")},
    "test_share must be between 0 and 1, got 1": {"test_share": 1.0},
    "test_share must be between 0 and 1, got nan": {"test_share": float("nan")},
    "seed must be from 0 to 4294967295, got -1": {"seed": -1},
    "workers must be at least 1, got 0": {"workers": 0},
    "b-values must be distinct and >= 0, got \\[-5": {"b_values_s_per_mm2": (-5.0, 100.0)},
    "b-values must be distinct and >= 0, got \\[100": {"b_values_s_per_mm2": (100.0, 100.0)},
    "b-values must be distinct and >= 0, got \\[\\]": {"b_values_s_per_mm2": ()},
}

COHORT, CALL = ("b_values_s_per_mm2",), ("workers",)


@pytest.mark.parametrize("message", ARGUMENTS)
def test_an_argument_out_of_range_is_refused_before_any_work(dicom_cohort: Path, tmp_path: Path, message: str) -> None:
    given = dict(ARGUMENTS[message])
    of_cohort, of_call = ({name: given.pop(name) for name in names if name in given} for names in (COHORT, CALL))
    cohort = DicomCohort(dicom_cohort, dicom_cohort / "labels.csv", **of_cohort)
    with pytest.raises(ManifestError, match=message):
        build_manifest(cohort, CohortPlan(**{"output": tmp_path / "c.json"} | given), **of_call)
    assert list(tmp_path.iterdir()) == []


def test_an_id_without_a_folder_is_named_and_folders_without_a_label_are_not(
    dicom_cohort: Path, tmp_path: Path
) -> None:
    table = write_labels(tmp_path, {"PHANTOM-0001": 0, "PHANTOM-0002": 1, "PHANTOM-002": 1})
    with pytest.raises(ManifestError, match=r"got 'PHANTOM-002' and 0 more without one \(18 folders have no label\)"):
        build_manifest(DicomCohort(dicom_cohort, table), CohortPlan(tmp_path / "c.json"))
    with pytest.raises(ManifestError, match="DICOM_DIR must be a folder"):
        build_manifest(DicomCohort(tmp_path / "absent", table), CohortPlan(tmp_path / "c.json"))


def test_too_few_positives_are_refused_before_any_work(dicom_cohort: Path, tmp_path: Path) -> None:
    table = write_labels(tmp_path, {"PHANTOM-0001": 0, "PHANTOM-0003": 0, "PHANTOM-0002": 1})
    with pytest.raises(SplitError, match=r"at least 2 positive patients.*got 1"):
        build_manifest(DicomCohort(dicom_cohort, table), CohortPlan(tmp_path / "c.json"))
    assert not (tmp_path / "c").exists()


def test_a_class_that_is_lost_to_refusals_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    names = {"a": 0, "b": 0, "c": 1, "d": 1}
    for name in names:
        (tmp_path / "dicom" / name).mkdir(parents=True)
    with pytest.raises(ManifestError, match=r"0 usable ones.*4 refused.*First refusal: a: study must hold DICOM"):
        build_manifest(DicomCohort(tmp_path / "dicom", write_labels(tmp_path, names)), CohortPlan(tmp_path / "c.json"))
    assert not (tmp_path / "c.json").exists()


def test_a_study_that_defeats_the_reader_or_the_disk_is_refused_not_fatal(
    dicom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defeated(*_: object, **__: object) -> None:
        raise RuntimeError(f"{NAME} in the message of a library")

    def unreadable(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    study = ("PHANTOM-0001", convert.DicomStudy(dicom_cohort / "PHANTOM-0001", (100.0,)))
    with monkeypatch.context() as patch:
        patch.setattr(convert, "load_study", defeated)
        one = convert.convert_or_refuse(study, volumes_dir=tmp_path)
        patch.setattr(convert, "sha256_of_file", unreadable)
        other = convert.convert_or_refuse(study, volumes_dir=tmp_path)
    assert (one.code, other.code) == ("unexpected_error", "unreadable_file")
    assert "RuntimeError" in one.reason
    assert NAME not in one.reason
    assert str(dicom_cohort) not in other.reason


# One person, one patient


@pytest.fixture
def repeated(six: tuple[Path, dict[str, int]]) -> tuple[Path, dict[str, int]]:
    """Return the six studies and a seventh, `AGAIN`, of the patient of the first."""
    dicom, labels = six
    link((dicom / sorted(labels)[0]).resolve(), dicom / "AGAIN")
    shutil.copytree(dicom.parent / "c" / sorted(labels)[0], dicom.parent / "c" / "AGAIN")
    return dicom, labels | {"AGAIN": labels[sorted(labels)[0]]}


def build(folder: Path, labels: dict[str, int], **options: object) -> BuildResult:
    table = write_labels(folder.parent, labels, **options.pop("columns", {}))  # type: ignore[arg-type]
    return build_manifest(
        DicomCohort(folder, table),
        CohortPlan(folder.parent / "c.json", overwrite=True, **options),  # type: ignore[arg-type]
    )


def test_studies_of_one_dicom_patient_are_one_patient_in_every_split(
    repeated: tuple[Path, dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    dicom, labels = repeated
    first = sorted(set(labels) - {"AGAIN"})[0]
    for seed in range(5):
        studies = {study.id: study for study in build(dicom, labels, seed=seed).manifest.studies}
        assert studies["AGAIN"].patient == studies[first].patient == "AGAIN"
        assert studies["AGAIN"].split == studies[first].split
    assert f"2 studies have one DICOM Patient ID and count as one patient: AGAIN, {first}" in caplog.text


def test_the_table_and_dicom_join_patients_together(repeated: tuple[Path, dict[str, int]]) -> None:
    dicom, labels = repeated
    names = sorted(labels)
    patients = {name: name for name in labels} | {names[-1]: "sibling", "AGAIN": "sibling"}
    studies = {
        study.id: study.patient for study in build(dicom, labels, columns={"patient": patients}).manifest.studies
    }
    assert studies["AGAIN"] == studies[names[1]] == studies[names[-1]]
    assert len(set(studies.values())) == 5


def test_one_person_in_two_named_splits_is_refused(repeated: tuple[Path, dict[str, int]]) -> None:
    dicom, labels = repeated
    splits = {name: "train" if index % 2 else "test" for index, name in enumerate(sorted(labels))}
    with pytest.raises(ManifestError, match="must lie in one split, got 'AGAIN' and 'PHANTOM-0001' in two"):
        build(dicom, labels, columns={"split": splits})


def test_one_patient_id_for_all_is_a_placeholder(
    dicom_cohort: Path, cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"a": 0, "b": 0, "c": 1, "d": 1}
    for name in labels:
        link(dicom_cohort / "PHANTOM-0001", tmp_path / "dicom" / name)
        shutil.copytree(cohort.with_suffix("") / "PHANTOM-0001", tmp_path / "c" / name)
    manifest = build(tmp_path / "dicom", labels).manifest
    assert {study.patient for study in manifest.studies} == set(labels)
    assert "taken for a placeholder" in caplog.text


def test_nothing_of_the_patient_reaches_manifest_sidecar_or_messages(
    six: tuple[Path, dict[str, int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dicom, labels = six
    caplog.set_level("DEBUG")
    original = (dicom / sorted(labels)[0]).resolve()
    shutil.copytree(original, dicom / "GOOD")
    edit(list((dicom / "GOOD").rglob("*.dcm")), PatientName=NAME, PatientID=ID, PatientBirthDate=BIRTH_DATE)
    for name in ("AGAIN", "BAD", "WORSE"):
        shutil.copytree(dicom / "GOOD", dicom / name)
    without_a_slice(dicom / "BAD")
    cut_in_header(dicom / "WORSE")
    secrets = {NAME, ID, BIRTH_DATE, "PLANTED"}
    uids = [pydicom.dcmread(path) for path in (dicom / "GOOD").rglob("*.dcm")]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        secrets |= {str(image[keyword].value) for image in uids}
    result = build(dicom, labels | {"GOOD": 0, "AGAIN": 0, "BAD": 0, "WORSE": 0})
    assert [study.id for study in result.manifest.refused] == ["BAD", "WORSE"]
    written = "".join(path.read_text() for path in [tmp_path / "c.json", *(tmp_path / "c").rglob("study.json")])
    volumes = b"".join(nib.load(path).header.binaryblock for path in (tmp_path / "c").rglob("*.nii.gz")).decode(
        "latin-1"
    )
    said = "".join(capfd.readouterr()) + caplog.text
    for text in (written, volumes, said):
        assert [secret for secret in secrets if secret in text] == []


def test_the_real_study_goes_through_with_synthetic_ones(
    shared: Path, six: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    dicom, labels = six
    link(shared / "data" / "prostatex" / "ProstateX-0001", dicom / "ProstateX-0001")
    manifest = build(dicom, labels | {"ProstateX-0001": 0}).manifest
    real = next(study for study in manifest.studies if study.id == "ProstateX-0001")
    assert real.b_values_acquired_s_per_mm2 == (50, 400, 800)
    assert real.b_values_computed == (True, True, True)
    t2, dwi = nib.load(tmp_path / real.t2.path), nib.load(tmp_path / real.dwi.path)
    assert dwi.shape == (*t2.shape, 3)
    mean = dwi.get_fdata().mean(axis=(0, 1, 2))
    assert mean[0] > mean[1] > mean[2] > 0  # diffusion only takes signal away
