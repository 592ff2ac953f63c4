"""The real Orthanc on loopback with a storage of its own, and small studies that are sent to it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

EXECUTABLE = shutil.which("Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STABLE_AGE_S = 1  # the shortest that Orthanc takes

SLICES, GAP_MM = 5, 3.0


class OrthancServer:
    """An Orthanc that can be killed and started again on the same storage and ports."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.http_port, self.dicom_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._config = folder / "orthanc.json"
        self._log = folder / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None
        storage = str(folder / "storage")
        config = {
            "Name": "TEST", "StorageDirectory": storage, "IndexDirectory": storage, "HttpPort": self.http_port,
            "DicomPort": self.dicom_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "StableAge": STABLE_AGE_S, "CheckRevisions": True, "DicomCheckCalledAet": False,
            "SyncStorageArea": False,  # a killed process loses nothing that it wrote, synced or not
            "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        }  # fmt: skip
        self._config.write_text(json.dumps(config | settings))

    def start(self) -> OrthancServer:
        assert EXECUTABLE is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([EXECUTABLE, str(self._config)], stdout=log, stderr=log)
        for _ in range(600):
            if self.is_up():
                return self
            time.sleep(0.05)
        raise RuntimeError(self._log.read_text()[-2000:])

    def is_up(self) -> bool:
        try:
            return requests.get(f"{self.url}/system", timeout=5).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        """End it as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def put(self, path: str, value: str) -> None:
        requests.put(self.url + path, data=value, timeout=30).raise_for_status()

    def upload(self, images: Iterable[Dataset]) -> str:
        """Store images over HTTP and return Orthanc's identifier of their study."""
        for image in images:
            file = io.BytesIO()
            image.save_as(file, enforce_file_format=True)
            answer = requests.post(f"{self.url}/instances", data=file.getvalue(), timeout=30)
            answer.raise_for_status()
        return str(answer.json()["ParentStudy"])

    def wipe(self) -> None:
        for study in self.get("/studies"):
            requests.delete(f"{self.url}/studies/{study}", timeout=30).raise_for_status()

    def modalities(self, study: str) -> dict[str, int]:
        """Return the number of instances of each modality in a study."""
        counts: dict[str, int] = {}
        for series in self.get(f"/studies/{study}/series?expand"):
            modality = series["MainDicomTags"]["Modality"]
            counts[modality] = counts.get(modality, 0) + len(series["Instances"])
        return counts

    def settle(self) -> None:
        """Make all studies stable without waiting: a server that was started again forgets which ones were not."""
        self.kill()
        self.start()


def send(server: OrthancServer, images: Sequence[Dataset]) -> bool:
    """Send images by C-STORE over one association and return whether all were taken."""
    if not server.is_up():  # pynetdicom leaves a socket open where nobody listens
        return False
    entity = AE()
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", server.dicom_port)
    if not association.is_established:
        return False
    # command and data are two writes: with Nagle's algorithm each waits for a delayed acknowledgement
    association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return all(getattr(association.send_c_store(image), "Status", None) == 0 for image in images)
    except RuntimeError:  # the association broke
        return False
    finally:
        if association.is_established:
            association.release()


def small_study(name: str, *, b_values: Sequence[float] = (50.0, 800.0)) -> list[Dataset]:
    """Return a study of small images that can be answered: T2 (series 2) and diffusion (series 3)."""
    images = [_image(name, 2, slice_, None) for slice_ in range(SLICES)]
    return images + [_image(name, 3, slice_, b_value) for b_value in b_values for slice_ in range(SLICES)]


def other_image(name: str, modality: str, *, number: int = 8) -> Dataset:
    """Return an image of another series of a study."""
    return _image(name, number, 0, None, Modality=modality)


def uid(name: str) -> str:
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:12], 'big')}"


def _image(name: str, number: int, slice_: int, b_value: float | None, **changes: Any) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, uid(f"{name} {number} {slice_} {b_value}")
    image.PatientName, image.PatientID = f"Secret^{name}", f"SECRET-{name}"
    image.StudyInstanceUID, image.SeriesInstanceUID = uid(name), uid(f"{name} {number}")
    image.FrameOfReferenceUID, image.Modality, image.SeriesNumber = uid(f"{name} frame"), "MR", number
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240102", "100000", "1", "A1"
    image.PatientBirthDate, image.PatientSex, image.ReferringPhysicianName = "19500101", "M", ""
    image.InstanceNumber = 1 + slice_ + int(b_value or 0) * SLICES
    image.ScanningSequence, image.EchoTime, image.RepetitionTime = ("SE", 104.0, 5000.0)
    image.SeriesDescription, image.ImageType = "t2_tse_tra", ["ORIGINAL", "PRIMARY", "M"]
    if b_value is not None:
        image.ScanningSequence, image.EchoTime, image.DiffusionBValue = "EP", 63.0, b_value
        image.SeriesDescription = "ep2d_diff_tra"
        image.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"]
    image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    image.ImagePositionPatient = [-4.0, -4.0, GAP_MM * slice_]
    image.PixelSpacing, image.SliceThickness = [1.0, 1.0], GAP_MM
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    pixels = np.random.default_rng(slice_).integers(500, 4000, (8, 8)) * np.exp(-1.5e-3 * (b_value or 0.0))
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = pixels.astype("<u2").tobytes()
    return image


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fill(server: OrthancServer, *names: str) -> list[str]:
    """Store small studies that are stable at once."""
    studies = [server.upload(small_study(name)) for name in names]
    server.settle()
    return studies
