"""What tests of the report share: an identity, a browser that is told what to do, and text that leaves a figure."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.predict import StudyResult
from prostate_alm.delivery.prediction import AppliedLesionPoint, Identity, LesionCandidate

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IDENTITY = Identity(
    path="/archive/Doe^John", patient_id="ID-4711", study_instance_uid="1.2.3.4.5", accession_number="ACC-0815"
)
_TELL = """
window.requestAnimationFrame = (draw) => setTimeout(draw, 10); // the browser's clock runs ahead of its screen
const tell = (content) => {
  const out = document.createElement("pre");
  out.id = "told";
  out.hidden = true;
  out.textContent = JSON.stringify(content);
  document.body.append(out);
};
"""


def told(page: str, script: str, folder: Path, *, width: int = 1130) -> dict[str, Any]:
    """Open a page with a script that the policy is made to allow, and return what that tells."""
    assert BROWSER is not None
    script = _TELL + script
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    kind = "script-src " if "script-src " in page else "img-src data:; "
    text = page.replace(kind, f"script-src {allowed} " if kind == "script-src " else f"{kind}script-src {allowed}; ", 1)
    file = folder / "told.html"
    file.write_text(text.replace("<body>", f"<body><script>{script}</script>"), encoding="utf-8")
    flags = ["--headless=new", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    flags += ["--virtual-time-budget=100000", f"--window-size={width},2600"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    done = subprocess.run([BROWSER, *flags, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="told"[^>]*>(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    content: dict[str, Any] = json.loads(html.unescape(found[1]))
    return content


def with_lesions(result: StudyResult) -> StudyResult:
    """Return a result with four candidates on each side and level of the gland, and one of which nobody knows them."""
    assert result.volumes is not None
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ result.volumes.t2.affine_ras_mm
    labels = np.zeros(result.volumes.t2.voxels.shape, np.uint8)
    middle = np.array(labels.shape) // 2
    parts = (("left", "base"), ("right", "mid"), ("both", "apex"), (None, None))
    found = []
    for number, (side, level) in enumerate(parts, start=1):
        place = middle + np.array([9 * number - 25, 5, number - 3])
        labels[tuple(slice(at - 2, at + 3) for at in place[:2])][..., place[2]] = number
        position = tuple(float(one) for one in (affine @ [*place, 1.0])[:3])
        found.append(
            LesionCandidate(
                number=number, probability=1 - number / 9, position_mm=position, volume_mm3=25.0, side=side, level=level
            )
        )
    point = AppliedLesionPoint(
        target_sensitivity=0.95, threshold=0.0, threshold_probability=0.5, sensitivity=0.96, sensitivity_low=0.9,
        sensitivity_high=0.99, false_positives_per_case=0.31, lesions=120, cases=300,
    )  # fmt: skip
    answer = result.answer.model_copy(update={"lesions": tuple(found), "lesion_point": point, "schema_version": "1.2"})
    findings = LesionFindings(labels / np.float32(4), labels, affine, tuple(found))
    return StudyResult(answer, result.volumes, result.image, findings)


def outside(figure: Figure) -> list[str]:
    """Return the texts of a figure that leave it: what a reader would see cut off."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    edge = figure.bbox.padded(1)
    found = []
    scales = [axis for axes in figure.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(tick, axis.get_view_interval()) for axis in scales for tick in axis.get_major_ticks()]
    undrawn = {tick.label1 for tick, (low, high) in ticks if not low <= tick.get_loc() <= high}
    for text in set(figure.findobj(Text)) - undrawn:
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(canvas.get_renderer())
            if not (box.x0 >= edge.x0 and box.x1 <= edge.x1 and box.y0 >= edge.y0 and box.y1 <= edge.y1):
                found.append(text.get_text())
    return found
