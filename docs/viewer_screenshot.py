"""Draw docs/images/viewer.png: lesion candidates of a synthetic study in OHIF, over Orthanc's DICOMweb.

Orthanc, nginx and OHIF run as docker/compose.viewer.yaml has them, with its nginx.conf and app-config.js, on 127.0.0.1.
The first candidate is the phantom's own mask, the second a ball where nothing is: no model was asked.

Needs Debian's orthanc, orthanc-dicomweb, nginx-light, chromium and chromium-driver, `pip install selenium`, and OHIF:
npm pack @ohif/app@3.13.2 && tar -xzf ohif-app-3.13.2.tgz
Run from the repository root: python docs/viewer_screenshot.py package/dist
"""

import argparse
import io
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from prostate_alm.delivery.dicom.evidence import selected_evidence
from prostate_alm.delivery.dicom.frames import PlacedLesions, frames_of
from prostate_alm.delivery.dicom.objects import encoded
from prostate_alm.delivery.dicom.results import map_of, probability_quantity, segmentation_of
from prostate_alm.delivery.dicom.sr import report_of
from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.prediction import AppliedOperatingPoint, LesionCandidate, ModelIdentity, Prediction
from prostate_alm.imaging.study import explain_study
from prostate_alm.phantom.cohort import make_study, write_study
from prostate_alm.phantom.masks import render_masks

HERE = Path(__file__).resolve().parent
VIEWER = HERE.parent / "docker" / "viewer"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
STUDY, SIZE, WAIT_S = 5, (1500, 950), 90.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", f"--window-size={SIZE[0]},{SIZE[1]}",
)  # fmt: skip
MODEL = ModelIdentity(
    name="drawn by hand", version="1", sha256="0" * 64, members=1, trained_on="nothing", data_is_synthetic=True
)
POINT = AppliedOperatingPoint(
    target_tpr=0.95, threshold=0.0, tpr=0.95, tpr_low=0.9, tpr_high=1.0, fpr=0.5, fpr_low=0.4, fpr_high=0.6,
    positives=10, negatives=20, threshold_probability=0.5,
)  # fmt: skip


def objects(folder: Path) -> list[bytes]:
    """Return report, segments and map of the study's true lesion and of a ball beside it."""
    selection, now = explain_study(folder), datetime.now()
    evidence = selected_evidence(selection)
    frames = frames_of(selection, evidence)
    masks = render_masks(make_study(STUDY).plan)
    assert masks.lesions is not None
    lesion, gland = (one.transpose(2, 1, 0)[:, ::-1] > 0 for one in (masks.lesions, masks.gland))
    spacing_mm = np.linalg.norm(frames.affine_lps[:3, :3], axis=0)
    middle = np.argwhere(gland).mean(0) + [12, -4, 4] / spacing_mm
    from_ball_mm = np.linalg.norm((np.moveaxis(np.indices(gland.shape), 0, -1) - middle) * spacing_mm, axis=-1)
    labels = np.where(lesion, 1, np.where(from_ball_mm < 4.5, 2, 0)).astype(np.uint8)
    candidates = tuple(candidate(labels, n, sure, frames.affine_lps) for n, sure in ((1, 0.83), (2, 0.34)))
    probability = np.choose(labels, (0.01, 0.83, 0.34)).astype(np.float32)
    lesions = PlacedLesions(LesionFindings(probability, labels, frames.affine_lps, candidates), frames)
    answer = Prediction(
        study="0" * 16, probability=0.8, decision="positive", logit=1.4, logit_std=0.0, member_logits=(1.4,),
        operating_point=POINT, b_values_s_per_mm2=(), b_values_acquired_s_per_mm2=(), b_values_computed=(), series=(),
        warnings=(), model=MODEL, software={},
    )  # fmt: skip
    segments = segmentation_of(MODEL, lesions, created_at=now)
    assert segments is not None
    return [
        encoded(report_of(answer, evidence, created_at=now, lesions=lesions)),
        encoded(segments),
        encoded(map_of(MODEL, probability, probability_quantity(), frames, created_at=now)),
    ]


def candidate(labels: np.ndarray, number: int, sure: float, affine_lps: np.ndarray) -> LesionCandidate:
    """Return a candidate whose peak is the voxel in its middle."""
    voxels = np.argwhere(labels == number)
    peak = voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()]
    x, y, z = (affine_lps @ [*peak, 1.0])[:3].tolist()
    volume_mm3 = float(len(voxels) * abs(np.linalg.det(affine_lps[:3, :3])))
    return LesionCandidate(
        number=number, probability=sure, position_mm=(x, y, z), volume_mm3=volume_mm3,
        side="right" if number == 1 else "left", level="mid",
    )  # fmt: skip


@contextmanager
def servers(folder: Path, dist: Path) -> Iterator[tuple[str, str]]:
    """Start Orthanc and nginx; give their addresses."""
    orthanc, dicom, viewer = free_ports(3)
    settings = {
        **json.loads((VIEWER / "dicomweb.json").read_text()), "Plugins": [PLUGIN], "HttpPort": orthanc,
        "DicomPort": dicom, "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "AuthenticationEnabled": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    pages = shutil.copytree(dist, folder / "html")
    shutil.copy(VIEWER / "app-config.js", pages)
    config = (
        (VIEWER / "nginx.conf").read_text().replace("/tmp/", f"{folder}/").replace("/usr/share/nginx/html", str(pages))
    )
    config = config.replace("orthanc:8042", f"127.0.0.1:{orthanc}").replace("listen 8080", f"listen 127.0.0.1:{viewer}")
    (folder / "nginx.conf").write_text(config)
    commands = (
        ["Orthanc", str(folder / "orthanc.json")],
        ["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off; user root;"],
    )
    running = [subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for one in commands]
    try:
        yield f"http://127.0.0.1:{orthanc}", f"http://127.0.0.1:{viewer}"
    finally:
        for one in running:
            one.terminate()
            one.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody holds."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fill(orthanc: str, files: list[bytes]) -> str:
    """Store files once the server is there, and return the Study Instance UID."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            requests.get(f"{orthanc}/system", timeout=5).raise_for_status()
            break
        except requests.RequestException:
            time.sleep(0.2)
    for file in files:
        requests.post(f"{orthanc}/instances", data=file, timeout=60).raise_for_status()
    (study,) = requests.get(f"{orthanc}/studies?expand", timeout=60).json()
    return str(study["MainDicomTags"]["StudyInstanceUID"])


def look(driver: Chrome, address: str) -> None:
    """Load the report, then the segments over T2, and open the list of measurements."""
    driver.get(address)
    for button in ("Confirm and hide", "Skip all"):
        click(driver, f"//*[normalize-space(text())='{button}']")
    time.sleep(2)
    open_series(driver, "report, research use only")
    click(driver, "//button[normalize-space()='Yes']")
    open_series(driver, "t2_tse_tra")
    open_series(driver, "lesion candidates")
    click(driver, "//button[normalize-space()='Yes']")
    click(driver, "//*[@data-cy='trackedMeasurements-btn']")
    time.sleep(5)  # until the slices are drawn


def click(driver: Chrome, xpath: str) -> None:
    """Click what is there, once it is."""
    driver.execute_script("arguments[0].click()", found(driver, xpath))


def open_series(driver: Chrome, words: str) -> None:
    """Show a series in the view."""
    item = found(driver, f"//*[starts-with(@data-cy, 'study-browser-thumbnail')][contains(., '{words}')]")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", item)
    time.sleep(1)
    ActionChains(driver).double_click(item).perform()
    time.sleep(5)


def found(driver, xpath):  # type: ignore[no-untyped-def]
    """Return an element once it is there."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        elements = driver.find_elements(By.XPATH, xpath)
        if elements:
            return elements[0]
        time.sleep(0.3)
    raise SystemExit(f"the page must show {xpath}, got none. Has OHIF changed its pages?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder package/dist of OHIF's npm package")
    parser.add_argument("--output", type=Path, default=HERE / "images" / "viewer.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name), options.dist) as (orthanc, viewer):
        folder = write_study(make_study(STUDY), Path(name) / "study")
        files = [*(path.read_bytes() for path in sorted(folder.rglob("*.dcm"))), *objects(folder)]
        study = fill(orthanc, files)
        chrome = Options()
        for flag in (*FLAGS, f"--user-data-dir={name}/profile"):
            chrome.add_argument(flag)
        chrome.binary_location = shutil.which("chromium") or ""
        driver = Chrome(options=chrome, service=Service(shutil.which("chromedriver")))
        try:
            look(driver, f"{viewer}/viewer?StudyInstanceUIDs={study}")
            page = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
            page.convert("RGB").resize((960, round(960 * page.height / page.width))).save(options.output, optimize=True)
        finally:
            driver.quit()
    print(options.output)


if __name__ == "__main__":
    main()
