"""Who packed it: signatures by openssl's keys, listed hashes, and what a changed pack says."""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from prostate_alm.cli import main
from prostate_alm.delivery.package import zip_files
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.trust import chosen_trust, read_trust
from prostate_alm.delivery.package.zip_files import PackageError

HERE = Path(__file__).resolve().parents[2]
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def openssl(*arguments: str | Path) -> None:
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two pairs of keys, `mine` and `other`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.key")
        openssl("pkey", "-pubout", "-in", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    return folder


@pytest.fixture(scope="module")
def signed(keys: Path, ensemble_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "prostate.zip"
    bundle = HERE / "bundles" / "prostate"
    pack_ensemble(
        ensemble_folder,
        path,
        origins=Origins(manifest=ensemble_folder / "cohort.json", bundle=bundle),
        label=PackLabel(key=keys / "mine.key", licence=HERE / "LICENSE"),
    )
    return path


def changed(pack: Path, folder: Path, **contents: bytes) -> Path:
    """Write a pack with other files and right checksums, as who changes one on purpose does."""
    path = folder / "changed.zip"
    with zipfile.ZipFile(pack) as packed:
        files = {name.partition("/")[2]: packed.read(name) for name in packed.namelist()} | contents
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in zip_files.CONTENT]
    files[zip_files.CHECKSUMS] = "".join(lines).encode()
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(f"prostate/{name}", content)
    return path


@needs_openssl
def test_openssl_verifies_the_signature_that_the_pack_holds(signed: Path, keys: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(signed) as packed:
        packed.extractall(tmp_path)
    sums, signature = (tmp_path / "prostate" / name for name in ("SHA256SUMS", "SHA256SUMS.sig"))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", keys / "mine.pem", "-rawin", "-in", sums, "-sigfile", signature)
    for path in (signed, tmp_path / "prostate"):
        assert open_package(path, trust=read_trust(keys / "mine.pem")).identity.name == "prostate"


@needs_openssl
def test_a_pack_of_somebody_else_or_changed_since_is_refused(
    signed: Path, packed_file: Path, keys: Path, tmp_path: Path
) -> None:
    mine = read_trust(keys / "mine.pem")
    both = read_trust(keys) if not list(keys.glob("*.key")) else None
    assert both is None  # a folder with private keys in it is no list of trusted ones
    with pytest.raises(ValueError, match="got another line in"):
        read_trust(keys)
    for pack, trust in (
        (packed_file, mine),
        (signed, read_trust(keys / "other.pem")),
        (changed(signed, tmp_path, LICENSE=b"mine"), mine),
    ):
        with pytest.raises(PackageError) as caught:
            open_package(pack, trust=trust)
        assert caught.value.code == "untrusted_model"


def test_a_listed_hash_is_enough(packed_file: Path, tmp_path: Path) -> None:
    listed = tmp_path / "trusted"
    sha256 = hashlib.sha256(packed_file.read_bytes()).hexdigest()
    listed.write_text(f"# of the trial\n\n{sha256}  prostate.zip\n")
    assert open_package(packed_file, trust=read_trust(listed)).identity.sha256 == sha256
    listed.write_text("0" * 64)
    with pytest.raises(PackageError, match="untrusted_model"):
        open_package(packed_file, trust=read_trust(listed))


def test_a_pipe_is_no_list_of_keys_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trusted")
    with pytest.raises(ValueError, match="must be a file or a folder"):
        read_trust(tmp_path / "trusted")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "trust must hold a key or a hash, got none"),
        ("deadbeef", "got another line"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "got what is none"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "trusted").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_trust(tmp_path / "trusted")


@needs_openssl
def test_a_key_of_another_kind_neither_signs_nor_is_trusted(
    ensemble_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = tmp_path / "rsa.key", tmp_path / "rsa.pem"
    openssl("genpkey", "-algorithm", "rsa", "-out", key)
    openssl("pkey", "-pubout", "-in", key, "-out", public)
    with pytest.raises(ValueError, match="got one of another kind"):
        read_trust(public)
    pack = ["pack", str(ensemble_folder), "--output", str(tmp_path / "x.zip"), "--sign"]
    for path, message in ((key, "must be an Ed25519 key"), (public, "must be a private key in PEM form")):
        assert main([*pack, str(path)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


def test_once_keys_are_set_predict_and_watch_refuse_what_is_unknown(
    packed_file: Path, phantom_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    listed = tmp_path / "trusted"
    listed.write_text("0" * 64)
    monkeypatch.setenv("PROSTATE_ALM_TRUST", str(listed))
    assert chosen_trust(None) == read_trust(listed)
    for command in (
        ["predict", str(phantom_study), "--output", str(tmp_path / "answers"), "--model", str(packed_file)],
        ["watch", "http://127.0.0.1:9", "--once", "--model", str(packed_file)],
    ):
        assert main(command) == 2
        assert "untrusted_model: model must be signed by a trusted key" in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()


def test_configs_that_this_version_does_not_write_are_told(
    packed_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_package(packed_file)
    assert caplog.text == ""
    config = json.dumps({"inference": ["$__import__('os').system('id')"]}).encode()
    pack = changed(packed_file, tmp_path, **{zip_files.INFERENCE: config})
    open_package(pack)
    assert "configs/inference.json in changed.zip: not what this version of prostate-alm writes" in caplog.text
    caplog.clear()
    listed = tmp_path / "trusted"
    listed.write_text(hashlib.sha256(pack.read_bytes()).hexdigest())
    open_package(pack, trust=read_trust(listed))
    assert caplog.text == ""
