"""A packed model: what opening it gives, and what it refuses."""

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prostate_alm.delivery.package import zip_files
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.training.networks import CascadeNet

Files = dict[str, bytes]


@pytest.fixture
def files(packed_file: Path) -> Files:
    """Return the files of the pack by name, its checksums among them."""
    with zipfile.ZipFile(packed_file) as packed:
        return {name.partition("/")[2]: packed.read(name) for name in packed.namelist()}


@pytest.fixture
def repacked(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes files into a zip, with checksums that are right unless `sums` is given."""

    def write(files: Files, *, sums: bytes | None = None) -> Path:
        rest = {name: content for name, content in files.items() if name != zip_files.CHECKSUMS}
        lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in rest.items())
        path = tmp_path / "changed.zip"
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in {**rest, zip_files.CHECKSUMS: lines.encode() if sums is None else sums}.items():
                packed.writestr(f"prostate/{name}", content)
        return path

    return write


def code_of(path: Path) -> str:
    """Return the code with which a pack is refused, after a look at the message."""
    with pytest.raises(PackageError) as caught:
        open_package(path)
    assert str(caught.value).startswith(f"{caught.value.code}: ")
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_the_opened_model_is_the_mean_of_the_members(packed_model: PackedModel, ensemble_folder: Path) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 40, 40, 20)).astype(np.float32))
    logits = []
    for number in range(3):
        member = CascadeNet(3, (1, 3), features=(8, 16, 32), pooling=((2, 2, 1), (2, 2, 2), (2, 2, 2)))
        member.load_state_dict(torch.load(ensemble_folder / f"member-{number:02d}" / "model.pt", weights_only=True))
        logits.append(member(image).detach().numpy())
    np.testing.assert_allclose(packed_model.network(image).numpy(), np.mean(logits, axis=0), atol=1e-6)
    assert not packed_model.network.training


def test_the_zip_and_its_folder_are_the_same_model(
    packed_file: Path, packed_model: PackedModel, tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed_file) as packed:
        packed.extractall(tmp_path)
    folder = open_package(tmp_path / "prostate")
    assert folder.card == packed_model.card
    for name, value in packed_model.network.state_dict().items():
        assert torch.equal(value, folder.network.state_dict()[name])
    assert packed_model.identity.sha256 == hashlib.sha256(packed_file.read_bytes()).hexdigest()
    sums = (tmp_path / "prostate" / "SHA256SUMS").read_bytes()
    assert folder.identity.sha256 == hashlib.sha256(sums).hexdigest()


def test_what_others_zip_again_is_the_same_model(
    files: Files, repacked: Callable[..., Path], packed_model: PackedModel, tmp_path: Path
) -> None:
    """With folders as entries and compressed, as `zip -r` writes it."""
    assert open_package(repacked(files)).card == packed_model.card
    for name, content in files.items():
        (tmp_path / "again" / "prostate" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / "prostate" / name).write_bytes(content)
    again = Path(shutil.make_archive(str(tmp_path / "made"), "zip", tmp_path / "again", "prostate"))
    assert any(name.endswith("/") for name in zipfile.ZipFile(again).namelist())
    assert open_package(again).card == packed_model.card


def test_a_changed_file_is_tampering(files: Files, repacked: Callable[..., Path]) -> None:
    sums = files[zip_files.CHECKSUMS]
    for name in zip_files.CONTENT:
        changed = bytearray(files[name])
        changed[len(changed) // 2] ^= 1
        assert code_of(repacked({**files, name: bytes(changed)}, sums=sums)) == "tampered_model"
    lines = sums.splitlines(keepends=True)
    for wrong in (b"", b"".join(lines[1:]), sums + lines[0], sums.replace(b"  ", b" "), b"\xff\xfe"):
        assert code_of(repacked(files, sums=wrong)) == "tampered_model"


def test_a_flipped_bit_anywhere_is_noticed(packed_file: Path, tmp_path: Path) -> None:
    content = packed_file.read_bytes()
    path = tmp_path / "flipped.zip"
    with zipfile.ZipFile(packed_file) as packed:
        starts = [(entry.header_offset + 30 + len(entry.filename), entry.file_size) for entry in packed.infolist()]
    for start, size in starts:
        flipped = bytearray(content)
        flipped[start + size // 2] ^= 4
        path.write_bytes(flipped)
        assert code_of(path) in ("tampered_model", "no_model")  # a zip has its own checksums, too


def test_a_file_too_few_or_too_many_is_refused(files: Files, repacked: Callable[..., Path]) -> None:
    for name in (zip_files.MODEL, zip_files.LICENSE, zip_files.INFERENCE):
        assert code_of(repacked({key: value for key, value in files.items() if key != name})) == "incomplete_model"
    for name in ("configs/evil.py", "models/model.ts", "configs/logging.conf", "__init__.py"):
        assert code_of(repacked({**files, name: b"import os"})) == "incomplete_model"


@pytest.mark.parametrize(
    "target", ["../escape", "/etc/escape", "prostate/../../escape", "C:escape", "..\\escape", "other/x"]
)
def test_a_path_out_of_the_folder_is_refused_and_nothing_is_written(
    files: Files, repacked: Callable[..., Path], tmp_path: Path, target: str
) -> None:
    path = repacked(files)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(target, b"x")
    before = sorted(tmp_path.rglob("*"))
    assert code_of(path) == "unsafe_model"
    assert sorted(tmp_path.rglob("*")) == before


def test_links_encryption_and_copies_are_refused(files: Files, repacked: Callable[..., Path], tmp_path: Path) -> None:
    path = repacked(files)
    link = zipfile.ZipInfo("prostate/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(link, "/etc/passwd")
    assert code_of(path) == "unsafe_model"
    path = repacked(files)
    with zipfile.ZipFile(path, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("prostate/LICENSE", b"another")
    assert code_of(path) == "unsafe_model"
    content = bytearray(repacked(files).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the directory's last entry
    path.write_bytes(content)
    assert code_of(path) == "unsafe_model"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "LICENSE").symlink_to("/etc/hostname")
    assert code_of(folder) == "unsafe_model"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert code_of(tmp_path / "loop") == "no_model"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("prostate/LICENSE", bytes(17 << 20))
    assert path.stat().st_size < 50_000
    assert code_of(path) == "unsafe_model"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(40):
            packed.writestr(f"prostate/{number}", b"")
    assert code_of(path) == "unsafe_model"
    with pytest.raises(PackageError, match="unsafe_model: model must have at most 1000 bytes"):
        zip_files.read_content(path, limits=zip_files.PackLimits(archive_bytes=1000))


def test_the_sizes_that_a_zip_states_are_not_believed(files: Files, repacked: Callable[..., Path]) -> None:
    """A directory that states 10 bytes where a megabyte follows: ten bytes are read, and they are not the file."""
    path = repacked({**files, zip_files.LICENSE: bytes(1 << 20)})
    with zipfile.ZipFile(path) as packed:
        names = [entry.filename for entry in packed.infolist()]
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    for name in names:
        if name.endswith("LICENSE"):
            content[at + 24 : at + 28] = (10).to_bytes(4, "little")
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)
    assert code_of(path) in ("no_model", "tampered_model")


def test_what_is_no_pack_is_refused(tmp_path: Path, packed_file: Path) -> None:
    text, empty, cut = tmp_path / "text.zip", tmp_path / "empty.zip", tmp_path / "cut.zip"
    text.write_text("no zip")
    empty.write_bytes(b"")
    content = packed_file.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    (tmp_path / "folder").mkdir()
    for path in (text, empty, cut, tmp_path / "absent.zip", tmp_path / "folder"):
        assert code_of(path) == "no_model"


def with_card(files: Files, **changes: Any) -> Files:
    metadata = json.loads(files[zip_files.METADATA])
    metadata["prostate_alm"] |= changes
    return {**files, zip_files.METADATA: json.dumps(metadata).encode()}


def test_a_newer_format_is_told_from_an_invalid_one(files: Files, repacked: Callable[..., Path]) -> None:
    assert code_of(repacked(with_card(files, format_version=5, what_version_5_adds="x"))) == "newer_model"
    for changes in (
        {"format_version": 0},
        {"members": 4},
        {"members": "many"},
        {"unknown": 1},
        {"default_target_tpr": 0.5},
        {"network": {"path_channels": [1, 3], "features": [8, 16], "pooling": [[2, 2, 1], [2, 2, 2]]}},
        {"network": {"path_channels": [1, 2], "features": [8, 16, 32], "pooling": [[2, 2, 1]] * 3}},
        {"network": {"path_channels": [1, 3], "features": [4096] * 3, "pooling": [[2, 2, 1]] * 3}},
        {"calibration": {"slope": -1.0, "intercept": 0.0, "prevalence": 0.5, "samples": 10}},
        {"calibration": {"slope": float("nan"), "intercept": 0.0, "prevalence": 0.5, "samples": 10}},
    ):
        assert code_of(repacked(with_card(files, **changes))) == "invalid_model", changes
    for broken in (b"{", b"[]", b"{}", b'{"prostate_alm": 3}', b"[" * 100_000, b"\xff"):
        assert code_of(repacked({**files, zip_files.METADATA: broken})) == "invalid_model"


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of the pack was run')",)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_no_code_in_the_weights_is_run(files: Files, repacked: Callable[..., Path]) -> None:
    assert (
        code_of(repacked({**files, zip_files.MODEL: saved({"members.0.classifier.bias": Evil()})})) == "invalid_model"
    )


def test_weights_that_do_not_fit_are_refused(files: Files, repacked: Callable[..., Path]) -> None:
    state = torch.load(io.BytesIO(files[zip_files.MODEL]), weights_only=True)
    first = next(iter(state))
    for changed in (
        {**state, first: state[first].double()},
        {**state, first: torch.full_like(state[first], torch.nan)},
        {**state, "members.3.extra": torch.zeros(1)},
        {key: value for key, value in state.items() if key != first},
        [state],
        {"weights": 3},
    ):
        assert code_of(repacked({**files, zip_files.MODEL: saved(changed)})) == "invalid_model"
    for content in (b"", b"text", files[zip_files.MODEL][:1000]):
        assert code_of(repacked({**files, zip_files.MODEL: content})) == "invalid_model"


GIANT = {"path_channels": [1, 3], "features": [16, 1024, 2048], "pooling": [[2, 2, 1], [2, 2, 2], [2, 2, 2]]}
REPORT = """
import re, sys
from pathlib import Path
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.package.opened import open_package
for path in sys.argv[1:]:
    try:
        open_package(Path(path))
    except PackageError as error:
        print(error.code)
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # its own, not the parent's
print("torch._dynamo" in sys.modules, int(peak_kib) // 1024)
"""


class Filled:
    """Takes 10 GB when it is unpickled, without any code of the pack."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10_000_000_000,)


def test_packs_that_announce_much_are_refused_in_little_memory(
    files: Files, repacked: Callable[..., Path], packed_file: Path, tmp_path: Path
) -> None:
    state = torch.load(io.BytesIO(files[zip_files.MODEL]), weights_only=True)
    repeated = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
    giants = CascadeNet(3, (1, 3), features=(16, 1024, 2048), pooling=GIANT["pooling"]).state_dict()
    announced = {
        f"members.{n}.{key}": torch.zeros(()).expand(one.shape) for n in range(3) for key, one in giants.items()
    }
    grid = json.loads(files[zip_files.METADATA])["prostate_alm"]["grid"]
    shared = {key: torch.zeros(2 * value.numel())[: value.numel()].view(value.shape) for key, value in state.items()}
    attacks = [
        {**files, zip_files.MODEL: saved(repeated)},
        {**files, zip_files.MODEL: saved(shared)},
        {**with_card(files, network=GIANT), zip_files.MODEL: saved(announced)},
        {**files, zip_files.MODEL: saved({"members.0": Filled()})},
        {**files, zip_files.MODEL: saved({"members.0": torch.empty(1 << 40, device="meta")})},
        with_card(files, grid=grid | {"normalised_size": [1024] * 3, "image_size": [1024] * 3}),
        with_card(files, grid=grid | {"spacing_mm": [1e-300] * 3}),
        with_card(files, grid=grid | {"image_size": [1, 1, 1]}),
        {**files, **{f"more-{number}": b"" for number in range(20)}},
    ]
    paths = [repacked(attack).rename(tmp_path / f"{number}.zip") for number, attack in enumerate(attacks)]
    assert paths[2].stat().st_size < 200_000
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *paths, packed_file], capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    *codes, last = done.stdout.splitlines()
    has_dynamo, peak_mib = last.split()
    assert codes == ["invalid_model"] * (len(attacks) - 1) + ["incomplete_model"]
    assert (has_dynamo, list(temporary.iterdir())) == ("False", [])
    assert 100 < int(peak_mib) < 1024


def test_what_is_neither_file_nor_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert code_of(tmp_path / "pipe.zip") == "no_model"
    assert code_of(Path("/dev/zero")) == "no_model"


def test_text_of_a_card_that_steers_a_terminal_is_refused(files: Files, repacked: Callable[..., Path]) -> None:
    for text in ("\x1b[2Jmine", "a\nb", "a\u202eb", "x" * 301):
        assert code_of(repacked(with_card(files, name=text))) == "invalid_model"
        assert code_of(repacked(with_card(files, data=text))) == "invalid_model"


def test_the_card_finds_its_operating_points(packed_model: PackedModel) -> None:
    card = packed_model.card
    assert card.operating_point().target_tpr == 0.95
    assert card.operating_point(0.9).target_tpr == 0.9
    with pytest.raises(ValueError, match=r"target_tpr must be one that the model was packed with, got 0.5. Available"):
        card.operating_point(0.5)
