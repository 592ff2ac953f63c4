"""The tutorials run as they are printed and show what they say."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from prostate_alm.method.operating_point import choose_operating_point

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"

Run = Callable[..., None]


@pytest.fixture(scope="module")
def own_cohort(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the tutorial on an own cohort was followed; two others go on from there."""
    folder = tmp_path_factory.mktemp("own-cohort")
    run(TUTORIALS / "own_cohort.md", folder)
    return folder


@pytest.fixture
def ports(own_cohort: Path) -> Iterator[dict[str, str]]:
    """Return free ports for those of the text; a server that was left running is ended."""
    with socket.socket() as http, socket.socket() as dicom:
        http.bind(("127.0.0.1", 0))
        dicom.bind(("127.0.0.1", 0))
        free = {"8042": str(http.getsockname()[1]), "4242": str(dicom.getsockname()[1])}
    yield free
    pid = own_cohort / "pacs" / "pid"
    if pid.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_the_constraint_in_an_own_loop(run: Run, tmp_path: Path) -> None:
    run(TUTORIALS / "own_loop.md", tmp_path)


def test_a_loss_an_adapter_and_a_rule(run: Run, tmp_path: Path) -> None:
    run(TUTORIALS / "extend.md", tmp_path)


@pytest.mark.slow
def test_an_own_cohort_from_dicom_to_an_answer(own_cohort: Path) -> None:
    schema = json.loads(files("prostate_alm.delivery").joinpath("answer.schema.json").read_text())
    answers = [json.loads(path.read_text()) for path in (own_cohort / "answers").glob("*.json")]
    assert sorted(answer["status"] for answer in answers) == ["answered", "refused"]
    for answer in answers:
        jsonschema.validate(answer, schema)


@pytest.mark.slow
def test_choosing_an_ensemble(run: Run, own_cohort: Path) -> None:
    run(TUTORIALS / "choose_ensemble.md", own_cohort)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed (Debian: orthanc)")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_pacs_node(run: Run, own_cohort: Path, ports: dict[str, str]) -> None:
    run(TUTORIALS / "pacs_node.md", own_cohort, replaced=ports)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```python\nprint(1 + 1)\n```\n```text\n3\n```\n", "wrong.md, line 5 shows"),
        ("```sh\necho one; false; echo two\n```\n", "wrong.md, line 2 ended with 1"),
        ("```bash\ntrue\n```\n", "a block must be python, sh or text, got 'bash'"),
    ],
)
def test_a_tutorial_that_is_wrong_fails(run: Run, tmp_path: Path, block: str, message: str) -> None:
    page = tmp_path / "wrong.md"
    page.write_text(f"\n{block}")
    with pytest.raises(AssertionError) as failure:
        run(page, tmp_path)
    assert message in str(failure.value)


def test_the_common_threshold_of_the_tutorial_is_that_of_all_positives_to_the_grid() -> None:
    text = (TUTORIALS / "federated.md").read_text(
        encoding="utf-8"
    )  # its commands need NVFlare, in an environment of its own
    block = text[text.index("    import numpy as np") :]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    random = np.random.default_rng(0)
    sites = [random.normal(1 + k, 2, size) for k, size in enumerate((40, 25, 60))]
    scope = {"sites": sites}
    exec(code, scope)
    negative = random.normal(-2, 2, 50)
    labels = np.concatenate([np.ones(125), np.zeros(50)]).astype(int)
    whole = choose_operating_point(labels, np.concatenate([*sites, negative]), target_tpr=0.95)
    assert whole.threshold - 0.1 <= scope["threshold"] <= whole.threshold


def test_every_tutorial_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    pages = sorted(TUTORIALS.glob("*.md"))
    assert pages
    assert [page.name for page in pages if f'TUTORIALS / "{page.name}"' not in source] == []
