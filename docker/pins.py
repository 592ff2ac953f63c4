"""Pin the images of docker/ by digest: ask their registries, and write what they answer behind each version.

Run from anywhere with `make docker-pins`, where Docker reaches the registries: `python docker/pins.py`. Doing it again
takes the digests of today.
"""

import re
import subprocess
import sys
from pathlib import Path

NAMES = ("Dockerfile", "compose.yaml", "viewer/Dockerfile", "compose.viewer.yaml")
FILES = [Path(__file__).parent / name for name in NAMES]
IMAGE = re.compile(r"(?:(?<=_IMAGE=)|(?<=_IMAGE:-))(?P<image>[a-z][a-z0-9./-]*:\w[\w.-]*)(@sha256:[0-9a-f]{64})?")
"""The default of a variable: `PYTHON_IMAGE=python:3.11.14`, `${ORTHANC_IMAGE:-jodogne/orthanc:1.12.11}`."""


def digest_of(image: str) -> str:
    """Return the digest of an image, of all its platforms together.

    Raises:
        ValueError: its registry does not answer, or not with a digest.
    """
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    digest = done.stdout.strip()
    if done.returncode or not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        reason = (done.stderr.strip().splitlines() or [f"got {digest!r}"])[0]
        raise ValueError(f"registry must tell the digest of {image}: {reason}. Nothing was written.")
    return digest


def main() -> None:
    """Ask for all images first, then write the files."""
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    images = sorted({found["image"] for text in texts.values() for found in IMAGE.finditer(text)})
    try:
        digests = {image: digest_of(image) for image in images}
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for path, text in texts.items():
        path.write_text(IMAGE.sub(lambda found: f"{found['image']}@{digests[found['image']]}", text), encoding="utf-8")
    for image, digest in digests.items():
        print(f"{image}@{digest}")


if __name__ == "__main__":
    main()
