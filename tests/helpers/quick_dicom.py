"""Data sets written as pydicom writes them, each element encoded once: tests write the same ones thousands of times."""

from pathlib import Path

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

_ENCODED: dict[tuple[object, ...], bytes] = {}


def save(image: Dataset, path: Path) -> None:
    """Write what `image.save_as(path, enforce_file_format=True)` writes; the data set is not changed."""
    is_plain = [one.keyword for one in image.file_meta] == ["TransferSyntaxUID"] and "SpecificCharacterSet" not in image
    elements = [(one, _type(one, image)) for one in image] if is_plain else []
    if image.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian or not elements or not all(vr for _, vr in elements):
        image.save_as(path, enforce_file_format=True)
        return
    head = _head(str(image.SOPClassUID), str(image.SOPInstanceUID))
    path.write_bytes(head + b"".join(_element(one, vr) for one, vr in elements))


def _type(element: DataElement, image: Dataset) -> str:
    """Return how a value is encoded, '' where that takes more than its element."""
    if element.keyword == "PixelData" and image.get("BitsAllocated") == 16:
        return "" if element.is_undefined_length else "OW"
    return "" if " or " in element.VR or element.VR in ("SQ", "UN") else element.VR


def _element(element: DataElement, vr: str) -> bytes:
    if element.keyword == "PixelData":
        return _encoded(DataElement(element.tag, vr, element.value))
    key = (int(element.tag), vr, repr(element.value))
    if key not in _ENCODED:
        _ENCODED[key] = _encoded(element)
    return _ENCODED[key]


def _encoded(element: DataElement) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_data_element(stream, element)
    return stream.getvalue()


def _head(sop_class: str, sop_instance: str) -> bytes:
    key = (sop_class, sop_instance)
    if key not in _ENCODED:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_instance
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = DicomBytesIO()
        write_file_meta_info(stream, meta, enforce_standard=True)
        _ENCODED[key] = bytes(128) + b"DICM" + stream.getvalue()
    return _ENCODED[key]
