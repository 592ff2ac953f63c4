"""The table of labels: what is read, and each fault named with its line."""

from pathlib import Path

import pytest

from prostate_alm.data.labels import Label, read_labels
from prostate_alm.data.manifest import ManifestError


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_columns_in_any_order_with_byte_order_mark_spaces_and_windows_line_ends(tmp_path: Path) -> None:
    path = table(tmp_path, "\ufefflabel,split,id,patient\r\n 0 ,test, b ,p\r\n1,train,a,\r\n")
    assert read_labels(path) == [Label("a", 1, "a", "train"), Label("b", 0, "p", "test")]


def test_without_optional_columns_each_study_is_its_own_patient(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "id,label\nb,0\na,1\n")) == [Label("a", 1, "a", None), Label("b", 0, "b", None)]


def test_findings_are_read_where_there_are_some(tmp_path: Path) -> None:
    path = table(tmp_path, "id,label,finding\na,1,equivocal\nb,0,none\nc,0,unmistakable\n")
    assert [(row.label, row.finding) for row in read_labels(path)] == [
        (1, "equivocal"),
        (0, "none"),
        (0, "unmistakable"),
    ]


FAULTS = {
    "no label column": ("id,lable\na,1\n", r"must have the columns \['id', 'label'\].*Add \['label'\]"),
    "semicolons": ("id;label\na;1\n", "separate columns by commas"),
    "misspelt patient": ("id,label,pateint\na,1,p\nb,0,p\n", "got 'pateint'.*Available.*'patient'"),
    "column twice": ("id,label,label\na,1,0\nb,0,1\n", "got 'label'"),
    "duplicate id": ("id,label\na,1\nb,0\na,0\n", "must be unique, got 'a' more than once"),
    "a formula": ("id,label\n=1+cmd,1\nb,0\n", r"id must not begin with = \+ - @, got '=1\+cmd'"),
    "a patient's formula": ("id,label,patient\na,1,@x\nb,0,p\n", r"patient must not begin with = \+ - @, got '@x'"),
    "one class": ("id,label\na,1\nb,1\n", r"both 0 and 1, got only \[1\] in the 2 rows"),
    "no rows": ("id,label\n", r"got only \[\] in the 0 rows"),
    "empty file": ("", r"must have the columns"),
    "label 2": ("id,label\na,1\nb,2\n", "label must be 0 or 1, got '2' in .*line 3"),
    "label empty": ("id,label\na,1\nb\n", "label must be 0 or 1, got '' in .*line 3"),
    "value too many": ("id,label\na,1\nb,0,3\n", "one value per column, got more in .*line 3"),
    "id is a path": ("id,label\n../a,1\nb,0\n", "name of a study's folder, got '../a' in .*line 2"),
    "id is hidden behind a line break": ('id,label\n"a\nb",1\nb,0\n', r"got 'a\\nb'"),
    "split": ("id,label,split\na,1,train\nb,0,validation\n", "train or test, got 'validation' in .*line 3"),
    "split half filled": ("id,label,split\na,1,train\nb,0,\n", "for all rows or for none"),
    "patient in two splits": ("id,label,patient,split\na,1,p,train\nb,0,p,test\n", "one split, got the study 'b'"),
    "a finding half filled": (
        "id,label,finding\na,1,x\nb,0,\n",
        "for all studies or for none, got 'b' unlike others in",
    ),
    "a finding of two labels": (
        "id,label,finding\na,1,x\nb,0,x\n",
        "one label, got 'b' with 'x' and label 0, others .* 1",
    ),
    "a finding's formula": ("id,label,finding\na,1,@x\nb,0,y\n", r"finding must not begin with = \+ - @, got '@x'"),
    "not UTF-8": ("id,label\nä,1\n".encode("latin-1"), "CSV file in UTF-8"),
    "a spreadsheet": (b"PK\x03\x04\x00\x00\xff\xfe", "CSV file in UTF-8"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(ManifestError, match=message) as caught:
        read_labels(table(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_table_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="must be a readable CSV file"):
        read_labels(tmp_path / name)
