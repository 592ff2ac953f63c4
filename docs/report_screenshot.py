"""Draw docs/images/report.png: the report of a synthetic study as a browser shows it.

Needs Chromium (Debian: chromium) and a packed model. Run from the repository root:
python docs/report_screenshot.py prostate.zip STUDY
python docs/report_screenshot.py lesions.zip STUDY --picture docs/images/report-lesions.png --height 1560
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.report.html import write_report

PICTURE = Path(__file__).parent / "images" / "report.png"
WIDTH, HEIGHT = 1100, 3700  # of the window, in pixels
SCALE, COLOURS = 0.62, 128


def screenshot(page: Path, picture: Path, *, profile: Path, height: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium must be installed, got none. Install the package chromium.")
    flags = ["--headless=new", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{height}"]
    flags.append("--virtual-time-budget=5000")  # the viewer unpacks its slices first
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses root otherwise
    command = [browser, *flags, f"--user-data-dir={profile}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--height", type=int, default=HEIGHT)
    options = parser.parse_args()
    model = open_package(options.model)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(predict_folder(options.study, model), model, page)
        screenshot(page, Path(folder) / "report.png", profile=Path(folder) / "profile", height=options.height)
        image = Image.open(Path(folder) / "report.png").convert("RGB")
    small = image.resize((round(WIDTH * SCALE), round(options.height * SCALE)), Image.Resampling.LANCZOS)
    palette = small.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)  # keeps rare colours, as of the saliency
    small.quantize(palette=palette, dither=Image.Dither.NONE).save(options.picture, optimize=True)
    print(options.picture)


if __name__ == "__main__":
    main()
