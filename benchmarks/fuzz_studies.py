"""Bend studies at random: is the answer the same, refused, or another? python benchmarks/fuzz_studies.py 1000 --seed 1.

A small synthetic study in every encoding, and the real one with --real FOLDER, is bent N times, each time by one of
`MUTATORS`, read as any study is, and its volumes are compared with those of the plain study as the network sees them:
with zero mean and unit variance in each channel.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.files import files_below
from prostate_alm.imaging.volume import StudyVolumes, load_study
from prostate_alm.phantom.cohort import make_cohort
from prostate_alm.progress import progress_bar

Files = dict[str, bytes]
Draw = random.Random
SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
}
SLICES, MATRIX = 8, 64  # of the small study, cut out of a synthetic one
SAME_STD = 0.01  # root mean square over the voxels of a channel
SLOW_S = 20.0
OUTCOMES = ("same", "within 1 %", "refused", "warned", "DIFFERENT", "slow", "TRACEBACK")
PIXEL_DATA = 0x7FE00010
ARGUED = {
    "a bit of the pixels": "one value within those of the header: nothing tells it from signal",
    "60 bits of the pixels": "the same, in compressed pixels",
    "a sector of zeros": "in a deflated file, whose stream has no checksum, it makes other values than zeros",
    "4 KiB of zeros": "the same",
    "a sector of ones": "the same",
    "a file lost": "an end slice, where no number tells it",
    "a file of garbage": "the same",
    "an end slice lost": "what remains is a smaller whole study, where no plan and no number tells it",
    "an odd value": "a header that is a lie and consistent in itself, such as another pixel spacing of T2",
    "an element removed": "the same: one that nothing else repeats",
    "8 bits of the header": "the same, by chance",
    "a bit of the header": "the same, by chance",
}
"""Why an answer may differ in silence after a mutation; any other mutator must not."""


def main() -> int:
    """Bend, judge, and print a table; exit code 1 where an answer differs, is slow or ends in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many mutations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="folder of a real study, bent as well (every tenth time)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        found = fuzz(Path(name), options.count, seed=options.seed, real=options.real)
    print(table(found))
    return int(bool(faults(found)))


def faults(found: Counter[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return what must not be: an answer that differs without a reason in `ARGUED`, a hang, a traceback."""
    return [one for one in found if one[1] in OUTCOMES[5:] or (one[1] == "DIFFERENT" and one[0] not in ARGUED)]


def fuzz(scratch: Path, count: int, *, seed: int = 0, real: Path | None = None) -> Counter[tuple[str, str, str]]:
    """Return how often each mutator had each outcome, in each encoding; each mutation has a seed of its own.

    Those that differ, are slow or end in a traceback are told on stderr, with the seed that repeats them.
    """
    plain = encoded_studies(scratch)
    if real is not None:
        plain["real"] = {f"{number:04d}": path.read_bytes() for number, path in enumerate(sorted(files_below(real)))}
    expected = {name: load_study(_written(files, scratch / "plain" / name)) for name, files in plain.items()}
    synthetic = sorted(set(plain) - {"real"})
    found: Counter[tuple[str, str, str]] = Counter()
    progress = progress_bar("bending studies", unit="studies")
    for number in range(count):
        draw = Draw(f"{seed} {number}")
        encoding = "real" if real is not None and number % 10 == 0 else draw.choice(synthetic)
        mutator = draw.choice(sorted(MUTATORS))
        folder = _written(MUTATORS[mutator](dict(plain[encoding]), draw), scratch / "bent")
        outcome, detail = judge(folder, expected[encoding])
        if outcome in OUTCOMES[4:]:
            print(f"{seed} {number}: {encoding}, {mutator}: {outcome} {detail}", file=sys.stderr)
        found[mutator, outcome, encoding] += 1
        progress(number + 1, count)
    return found


def judge(folder: Path, expected: StudyVolumes) -> tuple[str, str]:
    """Return the outcome of reading a bent study, and what there is to say of it."""
    begin = time.monotonic()
    try:
        volumes = load_study(folder)
    except StudyRefused as refused:
        slow = time.monotonic() - begin > SLOW_S and refused.code != "oversized_study"
        return ("slow" if slow else "refused"), refused.code
    except Exception as error:
        return "TRACEBACK", type(error).__name__
    if time.monotonic() - begin > SLOW_S:
        return "slow", ""
    difference = _difference_std(volumes, expected)
    if difference < SAME_STD:
        return ("within 1 %" if difference else "same"), ""
    is_warned = {one.code for one in volumes.selection.doubts} - {one.code for one in expected.selection.doubts}
    return ("warned" if is_warned else "DIFFERENT"), f"{difference:.3g}"


def _difference_std(volumes: StudyVolumes, expected: StudyVolumes) -> float:
    """Return the largest root mean square difference of a normalised channel; infinite for another grid."""
    pairs = list(zip((volumes.t2, *volumes.dwi), (expected.t2, *expected.dwi), strict=True))
    if any(one.voxels.shape != other.voxels.shape for one, other in pairs):
        return np.inf
    if any(np.abs(one.affine_ras_mm - other.affine_ras_mm).max() > 0.1 for one, other in pairs):
        return np.inf
    normalised = (tuple((one.voxels - one.voxels.mean()) / one.voxels.std() for one in pair) for pair in pairs)
    difference = max(float(np.sqrt(np.square(one - other).mean())) for one, other in normalised)
    return 0.0 if difference < 1e-6 else difference


def encoded_studies(scratch: Path) -> dict[str, Files]:
    """Return a small study in every encoding, and as Enhanced objects, as the contents of its files."""
    make_cohort(scratch / "cohort", studies=1)
    images = [pydicom.dcmread(path) for path in sorted((scratch / "cohort" / "PHANTOM-0001").rglob("*.dcm"))]
    small = [_cut_out(one) for one in images if one.SeriesNumber in (3, 4)]
    small = [one for one in small if one is not None]
    found = {name: _files(small, syntax) for name, syntax in SYNTAXES.items()}
    series = [[one for one in small if one.SeriesNumber == number] for number in (3, 4)]
    found["Enhanced"] = _files([_enhanced(one) for one in series], ExplicitVRLittleEndian)
    found["Enhanced RLE"] = _files([_enhanced(one) for one in series], RLELossless)
    return found


def _cut_out(image: Dataset) -> Dataset | None:
    """Return the middle of a slice, None for slices that are left out; values keep their places in space."""
    number = (image.InstanceNumber - 1) % 20
    if not 6 <= number < 6 + SLICES:
        return None
    values = image.pixel_array
    first = [(size - MATRIX) // 2 for size in values.shape]
    values = np.ascontiguousarray(values[first[0] : first[0] + MATRIX, first[1] : first[1] + MATRIX])
    row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    spacing = [float(one) for one in image.PixelSpacing]
    corner = np.array(image.ImagePositionPatient, float) + first[1] * spacing[1] * row + first[0] * spacing[0] * column
    image.ImagePositionPatient = [f"{one:.6f}" for one in corner]
    image.InstanceNumber = (image.InstanceNumber - 1) // 20 * SLICES + number - 5
    image.Rows = image.Columns = MATRIX
    image.PixelData = values.tobytes()
    image.SmallestImagePixelValue, image.LargestImagePixelValue = int(values.min()), int(values.max())
    return image


def _enhanced(images: list[Dataset]) -> Dataset:
    """Return the images of a series as the frames of one object, everything that differs in its functional group."""
    whole = Dataset()
    whole.update({element.tag: element for element in images[0] if element.tag not in _OF_A_FRAME})
    whole.file_meta = FileMetaDataset()
    whole.SOPClassUID, whole.NumberOfFrames = UID("1.2.840.10008.5.1.4.1.1.4.1"), len(images)
    whole.PerFrameFunctionalGroupsSequence = [_frame(one) for one in images]
    whole.PixelData = b"".join(one.PixelData for one in images)
    return whole


_OF_A_FRAME = frozenset(
    [0x00200032, 0x00201041, 0x00280106, 0x00280107, 0x00189087, 0x00431039, 0x00431139, 0x00430011]
)


def _frame(image: Dataset) -> Dataset:
    group, position = Dataset(), Dataset()
    position.ImagePositionPatient = image.ImagePositionPatient
    group.PlanePositionSequence = [position]
    if image.SeriesNumber == 4:
        diffusion = Dataset()
        diffusion.DiffusionBValue = float(image.private_block(0x43, "GEMS_PARM_01")[0x39].value[0])
        diffusion.DiffusionDirectionality = "ISOTROPIC" if diffusion.DiffusionBValue else "NONE"
        group.MRDiffusionSequence = [diffusion]
    return group


def _files(images: list[Dataset], syntax: UID) -> Files:
    """Return images in a transfer syntax, as the contents of files."""
    found = {}
    for number, image in enumerate(images):
        one = Dataset()
        one.update({element.tag: deepcopy(element) for element in image})
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if syntax.is_encapsulated:
            one.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = syntax
        stream = BytesIO()
        one.save_as(stream, enforce_file_format=True)
        found[f"{number:04d}.dcm"] = stream.getvalue()
    return found


def _written(files: Files, folder: Path) -> Path:
    """Write files into a folder, which holds nothing else then."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    return folder


def _any(files: Files, draw: Draw) -> str:
    return draw.choice(sorted(files))


def _neighbours(files: Files, draw: Draw) -> tuple[str, str]:
    names = sorted(files)
    first = draw.randrange(len(names) - 1)
    return names[first], names[first + 1]


def _pixels_at(data: bytes) -> int:
    """Return where the pixels are, roughly: behind the last tag of pixel data, or the last half of what is deflated."""
    places = [data.rfind(tag) for tag in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")]
    return max(places) + 12 if max(places) > 0 else len(data) // 2


def _flipped(files: Files, draw: Draw, *, in_pixels: bool, bits: int) -> Files:
    name = _any(files, draw)
    data, begin = bytearray(files[name]), _pixels_at(files[name])
    span = (begin, len(data)) if in_pixels else (132, begin)
    for _ in range(bits):
        data[draw.randrange(*span)] ^= 1 << draw.randrange(8)
    return files | {name: bytes(data)}


def _lost(files: Files, draw: Draw, *, size: int, value: int) -> Files:
    name = _any(files, draw)
    data = bytearray(files[name])
    begin = draw.randrange(_pixels_at(files[name]), len(data)) // 512 * 512
    end = min(begin + size, len(data))
    data[begin:end] = bytes([value]) * (end - begin)
    return files | {name: bytes(data)}


def _cut(files: Files, draw: Draw, *, longest: int | None) -> Files:
    name = _any(files, draw)
    return files | {name: files[name][: draw.randrange(longest or len(files[name]))]}


def _without(files: Files, names: list[str]) -> Files:
    return {name: content for name, content in files.items() if name not in names}


def _every_second(files: Files, draw: Draw) -> Files:
    names = sorted(files)[:SLICES]
    return _without(files, names[draw.randrange(2) :: 2])


def _end_slices(files: Files, draw: Draw) -> Files:
    """Leave out the first or the last position of T2, or of every b-value."""
    names, at = sorted(files), draw.choice([0, SLICES - 1])
    stacks = [names[first : first + SLICES] for first in range(0, len(names), SLICES)]
    return _without(files, [one[at] for one in (draw.choice([stacks[:1], stacks[1:]])) if len(one) == SLICES])


def _exchanged(files: Files, draw: Draw) -> Files:
    """Exchange the pixels of two neighbours."""
    one, other = _neighbours(files, draw)
    first, second = (_pixels_at(files[name]) for name in (one, other))
    return files | {
        one: files[one][:first] + files[other][second:],
        other: files[other][:second] + files[one][first:],
    }


def _garbage(files: Files, draw: Draw) -> Files:
    return files | {_any(files, draw): draw.randbytes(draw.randrange(1, 4000))}


def _again(files: Files, draw: Draw) -> Files:
    return files | {"again.dcm": files[_any(files, draw)]}


def _other_file(files: Files, draw: Draw) -> Files:
    return files | {draw.choice(["notes.txt", "README", ".DS_Store"]): b"words\n" * draw.randrange(20)}


def _bent(files: Files, names: list[str], change: Callable[[Dataset], None]) -> Files:
    """Return files with their data sets changed, written in the encoding that they have."""
    bent = dict(files)
    for name in names:
        image = pydicom.dcmread(BytesIO(files[name]))
        change(image)
        stream = BytesIO()
        image.save_as(stream, enforce_file_format=False)
        bent[name] = stream.getvalue()
    return bent


def _some(files: Files, draw: Draw) -> list[str]:
    """Return one file, or all of T2, or all files."""
    names = sorted(files)
    return draw.choice([[_any(files, draw)], names[:SLICES], names])


def _positions(files: Files, draw: Draw) -> Files:
    one, other = _neighbours(files, draw)
    places = [pydicom.dcmread(BytesIO(files[name])).get("ImagePositionPatient") for name in (one, other)]
    first = _bent(files, [one], lambda image: setattr(image, "ImagePositionPatient", places[1]))
    return _bent(first, [other], lambda image: setattr(image, "ImagePositionPatient", places[0]))


def _odd_value(files: Files, draw: Draw) -> Files:
    """Give an element another value, of its own kind or of none, in one file, in T2, or everywhere."""
    keyword, values = draw.choice(sorted(ODD_VALUES.items()))
    value = draw.choice(values)

    def change(image: Dataset) -> None:
        if value is None:
            image.pop(keyword, None)
        else:
            image.add_new(keyword, "LO" if isinstance(value, str) else "US", value)

    return _bent(files, _some(files, draw), change)


def _removed(files: Files, draw: Draw) -> Files:
    def change(image: Dataset) -> None:
        del image[draw.choice([element.tag for element in image if element.tag != PIXEL_DATA])]

    return _bent(files, [_any(files, draw)], change)


ODD_VALUES: dict[str, list[str | int | None]] = {
    "RescaleSlope": ["0", "NaN", "two", "1,5", "-1", "1\\2", "2", "1e308", ""],
    "RescaleIntercept": ["x", "0\\1", "-100", "1e30"],
    "BitsStored": [8, 10, 11, 13, 16, 0, 40],
    "HighBit": [7, 9, 12, 15, 60],
    "BitsAllocated": [8, 12, 32, None],
    "PixelRepresentation": [1, 2],
    "SamplesPerPixel": [3, 0],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", ""],
    "Rows": [MATRIX - 1, MATRIX + 1, 0, 20_000],
    "Columns": [MATRIX - 2, MATRIX // 2, 65_535],
    "NumberOfFrames": ["0", "2", "1000000"],
    "PixelPaddingValue": [0, 100, 65_535],
    "SmallestImagePixelValue": [100, None],
    "LargestImagePixelValue": [10, 4095, None],
    "ImageOrientationPatient": ["1\\0\\0\\0\\0\\1", "1\\0\\0", "0\\0\\0\\0\\0\\0", None],
    "ImagePositionPatient": ["0\\0\\0", "a\\b\\c", None],
    "PixelSpacing": ["1\\1", "0\\0", "-1\\-1", None],
    "SliceThickness": ["0", "x", None],
    "EchoTime": ["30", "0", None],
    "RepetitionTime": ["1", None],
    "SpecificCharacterSet": ["ISO_IR 149", "\\\\", "ISO_IR 192"],
    "SeriesInstanceUID": ["1.2.3", "", None],
    "StudyInstanceUID": ["1.2.3", "", None],
    "FrameOfReferenceUID": ["1.2.3", None],
    "SOPInstanceUID": ["1.2.3", "", None],
    "InstanceNumber": ["0", "x", "-5", None],
    "ImageType": ["DERIVED\\SECONDARY\\ADC", "", None],
    "Modality": ["CT", "", None],
}
MUTATORS: dict[str, Callable[[Files, Draw], Files]] = {
    "a bit of the pixels": lambda files, draw: _flipped(files, draw, in_pixels=True, bits=1),
    "60 bits of the pixels": lambda files, draw: _flipped(files, draw, in_pixels=True, bits=60),
    "a bit of the header": lambda files, draw: _flipped(files, draw, in_pixels=False, bits=1),
    "8 bits of the header": lambda files, draw: _flipped(files, draw, in_pixels=False, bits=8),
    "a sector of zeros": lambda files, draw: _lost(files, draw, size=512, value=0),
    "4 KiB of zeros": lambda files, draw: _lost(files, draw, size=4096, value=0),
    "a sector of ones": lambda files, draw: _lost(files, draw, size=512, value=255),
    "a file cut": lambda files, draw: _cut(files, draw, longest=None),
    "a file cut below 132 bytes": lambda files, draw: _cut(files, draw, longest=132),
    "a file emptied": lambda files, draw: files | {_any(files, draw): b""},
    "a file lost": lambda files, draw: _without(files, [_any(files, draw)]),
    "a file of garbage": _garbage,
    "a file twice": _again,
    "another file": _other_file,
    "every second slice of T2 lost": _every_second,
    "an end slice lost": _end_slices,
    "pixels exchanged": _exchanged,
    "positions exchanged": _positions,
    "an odd value": _odd_value,
    "an element removed": _removed,
}


def table(found: Counter[tuple[str, str, str]]) -> str:
    """Return how often each mutator had each outcome, as a table of Markdown."""
    lines = ["| | " + " | ".join(OUTCOMES) + " |", "|---|" + "---|" * len(OUTCOMES)]
    for name in [*MUTATORS, "all"]:
        counts = Counter[str]()
        for (mutator, outcome, _), count in found.items():
            counts[outcome] += count if name in (mutator, "all") else 0
        lines.append(f"| {name} | " + " | ".join(str(counts[one]) for one in OUTCOMES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    with pydicom.config.disable_value_validation():
        sys.exit(main())
