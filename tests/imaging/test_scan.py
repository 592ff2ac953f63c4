"""Files that promise or hold more than any image does: refused with a code, at once, in little memory."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from prostate_alm.imaging.study import explain_study

ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"
PIXEL_DATA = b"\xe0\x7f\x10\x00OW"


def _inserted(data: bytes, element: bytes) -> bytes:
    at = data.rindex(PIXEL_DATA)
    return data[:at] + element + data[at:]


def _sequence(tag: bytes, items: bytes) -> bytes:
    return tag + b"SQ\0\0" + UNDEFINED + items + SEQUENCE_END


def _frames(data: bytes) -> bytes:
    return _inserted(data, _sequence(b"\x00\x52\x30\x92", (ITEM + bytes(4)) * 200_000))


def _frames_of_known_length(data: bytes) -> bytes:
    items = (ITEM + bytes(4)) * 200_000
    return _inserted(data, b"\x00\x52\x30\x92SQ\0\0" + struct.pack("<I", len(items)) + items)


def _nested(data: bytes) -> bytes:
    inner = b""
    for _ in range(200):
        inner = _sequence(b"\x40\x00\x30\xa7", ITEM + UNDEFINED + inner + ITEM_END)
    return _inserted(data, inner)


def _deflated(data: bytes) -> bytes:
    meta = 144 + struct.unpack_from("<I", data, 140)[0]
    named = data[:meta].replace(ExplicitVRLittleEndian.encode() + b"\0", DeflatedExplicitVRLittleEndian.encode())
    size = struct.pack("<I", len(named) - 144)
    named = named[:140] + size + named[144:]
    at = named.index(DeflatedExplicitVRLittleEndian.encode())
    named = named[: at - 2] + struct.pack("<H", 22) + named[at:]
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = stream.compress(data[meta:])
    packed += b"".join(stream.compress(bytes(1 << 24)) for _ in range(40)) + stream.flush()
    return named + packed


def _header_without_end(data: bytes) -> bytes:
    return _inserted(data, b"\x09\x00\x10\x10OB\0\0" + struct.pack("<I", 48 << 20) + bytes(48 << 20))


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "200 000 empty frames": _frames,
    "200 000 empty frames of known length": _frames_of_known_length,
    "200 nested sequences": _nested,
    "640 MiB of zeros, deflated": _deflated,
    "a header of 48 MiB": _header_without_end,
}


# In a process of its own, whose peak is VmHWM: ru_maxrss starts at the size of the process that started it.
REFUSED = """
import re, resource, sys, time
from pathlib import Path
from prostate_alm.imaging.apart import call_apart
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.volume import load_study
begin = time.monotonic()
try:
    load_study(Path(sys.argv[1]))
except StudyRefused as refused:
    seconds = time.monotonic() - begin
    here = int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    apart = call_apart(resource.getrusage, resource.RUSAGE_SELF).ru_maxrss
    print(refused.code, seconds, max(here, ended, apart))
"""


def _refused_at_once(folder: Path) -> str:
    told = subprocess.run([sys.executable, "-c", REFUSED, folder], stdout=subprocess.PIPE, text=True, check=True).stdout
    code, seconds, peak_kib = told.split()
    assert float(seconds) < 20
    assert int(peak_kib) < 2**20
    return code


@pytest.mark.parametrize("case", HEADERS)
def test_headers_beyond_all_limits(build, tmp_path, case):
    folder = build.save(tmp_path, build.study())
    path = folder / "0020"
    path.write_bytes(HEADERS[case](path.read_bytes()))
    assert _refused_at_once(folder) == "oversized_study"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("size", [8000, 20_000])
def test_a_matrix_that_no_scanner_has(build, tmp_path, syntax, size):
    images = build.study()
    for image in images[:6]:
        if syntax == RLELossless:
            image.compress(RLELossless, generate_instance_uid=False)
        image.Rows = image.Columns = size
    folder = build.save(tmp_path, images)
    assert _refused_at_once(folder) in ("oversized_study", "truncated")
    assert explain_study(folder).refused is not None


def test_frames_that_no_file_holds(build, tmp_path):
    images = build.study()
    whole = build.enhanced(images[:6])
    whole.NumberOfFrames = 2_000_000_000
    assert _refused_at_once(build.save(tmp_path, [whole, *images[6:]])) == "truncated"
