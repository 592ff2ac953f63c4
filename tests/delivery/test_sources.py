"""Where studies come from: folders of folders, archives, media, and what must not be opened."""

import gc
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from prostate_alm.delivery.sources import SourceError, content_sha256, find_sources, open_source
from prostate_alm.delivery.unpack import UnpackLimits, unpack
from prostate_alm.imaging.dicom import StudyRefused


def write_image(path: Path, study: str, series: str = "1", number: int = 1) -> Path:
    """Write a tiny MR object."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, f"2.25.{study}.{series}.{number}"
    image.PatientID, image.PatientName, image.Modality = f"patient {study}", "Secret^Name", "MR"
    image.StudyInstanceUID, image.SeriesInstanceUID = f"2.25.{study}", f"2.25.{study}.{series}"
    image.StudyDate, image.StudyTime, image.StudyID = "20240101", "100000", study
    image.SeriesNumber, image.InstanceNumber = series, number
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_study(folder: Path, study: str) -> Path:
    """Write a study of two series in folders of their own."""
    for series in ("1", "2"):
        write_image(folder / f"series-{series}" / "a", study, series)
    return folder


def found(folder: Path) -> list[str]:
    """Return the sources below a folder, as paths within it."""
    return [str(path.relative_to(folder)) for path in find_sources([folder])]


def opened(source: Path) -> list[set[str]]:
    """Return the identifiers of study in each folder that a source opens to."""
    with open_source(source) as studies:
        return [
            {str(pydicom.dcmread(path).StudyInstanceUID) for path in study.folder.rglob("*") if path.is_file()}
            for study in studies
        ]


def test_series_folders_are_one_study_and_study_folders_are_many(tmp_path):
    one = write_study(tmp_path / "one", "1")
    many = tmp_path / "many"
    write_study(many / "a", "1"), write_study(many / "b" / "2024", "2"), write_study(many / "c", "3")
    (many / "labels.csv").write_text("id,label\n")
    assert found(one) == ["."]
    assert found(many) == ["a", "b/2024", "c"]


def test_studies_without_preamble_are_studies_and_files_that_only_look_so_are_not(tmp_path):
    for name, study in (("a", "1"), ("b", "2")):
        path = write_image(tmp_path / name / "image", study)
        bare = pydicom.dcmread(path)
        data = path.read_bytes()
        path.write_bytes(data[data.index(b"\x08\x00\x16\x00UI") :])  # from the first element of the data set on
        assert b"DICM" not in path.read_bytes()
        assert pydicom.dcmread(path, force=True).StudyInstanceUID == bare.StudyInstanceUID
    assert found(tmp_path) == ["a", "b"]
    (tmp_path / "b" / "image").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200))
    assert found(tmp_path) == ["a"]  # the only study


def test_a_copy_of_a_study_does_not_make_a_folder_of_studies_one_study(tmp_path):
    for name, study in (("a", "1"), ("a copy", "1"), ("b", "2")):
        write_study(tmp_path / name, study)
    assert found(tmp_path) == ["a", "a copy", "b"]


def test_series_of_several_patients_stay_together_to_be_refused(tmp_path):
    write_study(tmp_path, "1")
    write_image(tmp_path / "series-3" / "a", "2")
    assert found(tmp_path) == ["."]


def test_files_of_several_patients_in_one_folder_stay_together(tmp_path):
    write_image(tmp_path / "a", "1"), write_image(tmp_path / "b", "2")
    assert found(tmp_path) == ["."]


def test_a_sub_folder_without_images_is_a_study_among_studies_and_nothing_in_a_study(tmp_path):
    write_study(tmp_path / "many" / "a", "1"), write_study(tmp_path / "many" / "b", "2")
    (tmp_path / "many" / "empty").mkdir()
    write_study(tmp_path / "one", "1")
    (tmp_path / "one" / "notes").mkdir()
    assert found(tmp_path / "many") == ["a", "b", "empty"]
    assert found(tmp_path / "one") == ["."]


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    write_study(tmp_path / "one", "1")
    (tmp_path / "one" / "loop").symlink_to(tmp_path / "one", target_is_directory=True)
    (tmp_path / "one" / "self").symlink_to("self")
    assert found(tmp_path / "one") == ["."]
    assert len(content_sha256(tmp_path / "one")) == 64


def test_links_to_studies_count_and_circles_of_links_end(tmp_path):
    write_study(tmp_path / "elsewhere" / "two", "2")
    write_study(tmp_path / "many" / "one", "1")
    (tmp_path / "many" / "two").symlink_to(tmp_path / "elsewhere" / "two", target_is_directory=True)
    (tmp_path / "many" / "back").symlink_to(tmp_path / "many", target_is_directory=True)
    assert found(tmp_path / "many") == ["one", "two"]


def test_a_pipe_is_the_callers_fault_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(SourceError, match="study must be an existing folder, zip or DICOMDIR"):
        find_sources([tmp_path / "pipe.zip"])


def test_a_path_that_does_not_exist_is_the_callers_fault(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for name in ("nowhere", "loop"):
        with pytest.raises(SourceError, match="study must be an existing folder, zip or DICOMDIR"):
            find_sources([tmp_path / name])


def test_the_digest_depends_on_contents_alone(tmp_path):
    write_study(tmp_path / "one", "1")
    first = content_sha256(tmp_path / "one")
    (tmp_path / "one" / "series-1" / "a").rename(tmp_path / "one" / "z")
    assert content_sha256(tmp_path / "one") == first
    (tmp_path / "one" / "z").write_bytes(b"other")
    assert content_sha256(tmp_path / "one") != first


def write_zip(path: Path, folder: Path, **options: int) -> Path:
    """Write an archive of all files below a folder."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_an_archive_opens_to_its_studies_and_leaves_nothing_behind(tmp_path, monkeypatch):
    write_study(tmp_path / "files" / "a", "1"), write_study(tmp_path / "files" / "b", "2")
    source = write_zip(tmp_path / "studies.zip", tmp_path / "files", compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert opened(source) == [{"2.25.1"}, {"2.25.2"}]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_archives_in_a_folder_are_studies_and_archives_in_an_archive_are_not_opened(tmp_path):
    (tmp_path / "archives").mkdir()
    write_zip(tmp_path / "archives" / "a.zip", write_study(tmp_path / "a", "1"))
    assert found(tmp_path / "archives") == ["a.zip"]
    outer = write_zip(tmp_path / "outer.zip", tmp_path / "archives")
    with open_source(outer) as studies:
        assert [sorted(path.name for path in study.folder.iterdir()) for study in studies] == [["a.zip"]]


def _member(name: str, *, mode: int = 0) -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")

    return write


UNSAFE = {
    "parent": _member("../evil"),
    "parent within": _member("a/../../evil"),
    "backslashes": _member("..\\evil"),
    "absolute": _member("/tmp/evil"),
    "drive": _member("C:\\evil"),
    "link": _member("link", mode=stat.S_IFLNK | 0o777),
    "device": _member("null", mode=stat.S_IFCHR | 0o666),
}


def refused(source: Path) -> str:
    """Return the code with which a source is refused."""
    with pytest.raises(StudyRefused) as caught, open_source(source):
        pass
    assert " must " in caught.value.reason
    assert ", got " in caught.value.reason
    return caught.value.code


@pytest.mark.parametrize("case", UNSAFE)
def test_an_archive_cannot_write_outside(tmp_path, case):
    source = tmp_path / "in" / "evil.zip"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("innocent", "text")
        UNSAFE[case](archive)
    with pytest.raises(StudyRefused) as caught:
        unpack(source, tmp_path / "out")
    assert caught.value.code == "unsafe_archive"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["evil.zip"]  # not even the innocent one


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**23))
    limits = UnpackLimits(ratio_from_bytes=2**22)
    with pytest.raises(StudyRefused, match="at most 100 times its packed size") as caught:
        unpack(tmp_path / "bomb.zip", tmp_path / "out", limits=limits)
    assert caught.value.code == "oversized_archive"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bomb_that_lies_about_its_size_is_not_unpacked_beyond_it(tmp_path):
    source = tmp_path / "liar.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**22))
    data = source.read_bytes()
    source.write_bytes(data.replace(struct.pack("<L", 2**22), struct.pack("<L", 100)))
    assert refused(source) == "damaged_archive"


@pytest.mark.parametrize(
    ("limits", "code"), [(UnpackLimits(files=2), None), (UnpackLimits(files=1), "oversized_archive")]
)
def test_the_number_of_files_is_limited(tmp_path, limits, code):
    source = write_zip(tmp_path / "a.zip", write_study(tmp_path / "a", "1"))
    if code is None:
        unpack(source, tmp_path / "out", limits=limits)
        return
    with pytest.raises(StudyRefused) as caught:
        unpack(source, tmp_path / "out", limits=limits)
    assert caught.value.code == code


def test_a_full_disk_is_foreseen(tmp_path):
    source = write_zip(tmp_path / "a.zip", write_study(tmp_path / "a", "1"))
    with pytest.raises(StudyRefused, match="room in the temporary folder"):
        unpack(source, tmp_path / "out", limits=UnpackLimits(free_bytes=2**62))


def test_damaged_and_encrypted_archives_are_refused(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", write_study(tmp_path / "a", "1")).read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.zip").write_bytes(b"")
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF  # within the first file: its checksum fails
    (tmp_path / "flipped.zip").write_bytes(flipped)
    encrypted = bytearray(whole)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = encrypted.find(magic)
        encrypted[at + offset] |= 1
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    assert refused(tmp_path / "short.zip") == "damaged_archive"
    assert refused(tmp_path / "empty.zip") == "damaged_archive"
    assert refused(tmp_path / "flipped.zip") == "damaged_archive"
    assert refused(tmp_path / "encrypted.zip") == "encrypted_archive"


def test_a_name_that_comes_twice_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", "2")
    assert refused(tmp_path / "twice.zip") == "damaged_archive"


@pytest.mark.parametrize("content", [b"", b"some text", b"\0" * 200])
def test_a_file_of_another_kind_is_no_study(tmp_path, content):
    (tmp_path / "Secret Name.dcm").write_bytes(content)
    assert refused(tmp_path / "Secret Name.dcm") == "no_dicom"


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """Return a medium with a DICOMDIR, written by pydicom: two patients, a study each."""
    files = FileSet()
    for study in ("1", "2"):
        for number in (1, 2):
            files.add(write_image(tmp_path / "source" / study / str(number), study, number=number))
    files.write(tmp_path / "medium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves its temporary folder to the collector
        del files
        gc.collect()
    return tmp_path / "medium"


def test_a_medium_opens_to_the_studies_that_it_lists(medium):
    assert found(medium) == ["DICOMDIR"]
    assert sorted(opened(medium / "DICOMDIR")) == [{"2.25.1"}, {"2.25.2"}]


def test_a_medium_may_be_copied_in_lower_case_and_zipped(medium, tmp_path):
    copy = tmp_path / "copy"
    for path in medium.rglob("*"):
        if path.is_file():
            inside = path.relative_to(medium)
            target = copy / (inside if path.name == "DICOMDIR" else str(inside).lower())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert len(opened(copy / "DICOMDIR")) == 2
    assert len(opened(write_zip(tmp_path / "medium.zip", copy))) == 2


def _first_file(medium: Path) -> Path:
    return next(path for path in sorted(medium.rglob("*")) if path.is_file() and path.name != "DICOMDIR")


def test_a_medium_with_a_missing_file_is_refused(medium):
    _first_file(medium).unlink()
    assert refused(medium / "DICOMDIR") == "missing_file"


def test_a_medium_cannot_point_outside(medium, tmp_path):
    first = _first_file(medium)
    first.rename(tmp_path / "outside")
    first.symlink_to(tmp_path / "outside")
    assert refused(medium / "DICOMDIR") == "unsafe_medium"
    content = (medium / "DICOMDIR").read_bytes()
    assert content.count(b"PT000000\\ST000000") == 2
    (medium / "DICOMDIR").write_bytes(content.replace(b"PT000000\\ST000000", b"..\\..\\..\\..\\..\\ab"))
    assert refused(medium / "DICOMDIR") == "unsafe_medium"


def test_a_directory_whose_records_form_a_circle_ends(medium):
    directory = pydicom.dcmread(medium / "DICOMDIR")
    first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
    for record in directory.DirectoryRecordSequence:
        record.OffsetOfTheNextDirectoryRecord = first
    directory.save_as(medium / "DICOMDIR")
    assert opened(medium / "DICOMDIR") == [{"2.25.1"}]


def test_a_damaged_directory_is_refused(medium):
    content = (medium / "DICOMDIR").read_bytes()
    (medium / "DICOMDIR").write_bytes(content[: len(content) // 2])
    assert refused(medium / "DICOMDIR") in ("damaged_medium", "no_dicom")
    (medium / "DICOMDIR").write_bytes(b"")
    assert refused(medium / "DICOMDIR") == "damaged_medium"
