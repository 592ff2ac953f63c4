"""Who made a pack: Ed25519 signatures over its checksums, and the keys and hashes that an installation trusts."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from prostate_alm.delivery.package.zip_files import PackageError, PackContent

TRUST_VARIABLE, PASSWORD_VARIABLE = "PROSTATE_ALM_TRUST", "PROSTATE_ALM_KEY_PASSWORD"

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_HASH = re.compile(rb"([0-9a-f]{64})(\s.*)?")
_BYTES_MAX = 1 << 20
_PUBLISH = "Get it with: openssl pkey -pubout -in KEY"


@dataclass(frozen=True)
class Trust:
    """What is trusted: packs signed by one of `keys`, and those with one of the SHA-256 `hashes`."""

    keys: tuple[Ed25519PublicKey, ...]
    hashes: frozenset[str]

    def require(self, content: PackContent, name: str) -> None:
        """Raise `PackageError` (`untrusted_model`) where a pack is neither signed by a trusted key nor listed."""
        if content.sha256 in self.hashes or any(_is_signed(content, key) for key in self.keys):
            return
        what = "no signature" if content.signature is None else "a signature of another key or of other files"
        raise PackageError(
            "untrusted_model",
            f"model must be signed by a trusted key or have a listed SHA-256, got {what} and {content.sha256} in "
            f"{name}. Get it from who packs for you, or add its key or SHA-256 to the file of --trust.",
        )


def chosen_trust(path: Path | None) -> Trust | None:
    """Return what a file or folder, else the variable PROSTATE_ALM_TRUST, says to trust; None where neither is given.

    Raises:
        ValueError: see `read_trust`.
        OSError: it cannot be read.
    """
    named = os.environ.get(TRUST_VARIABLE)
    if path is None and not named:
        return None
    return read_trust(path or Path(str(named)))


def read_trust(path: Path) -> Trust:
    """Read Ed25519 public keys in PEM form and SHA-256 hashes, one a line as `sha256sum` prints them.

    Args:
        path: a file with any number of both, in which lines that begin with # are comments, or a folder of such files.

    Raises:
        ValueError: a line is neither, or nothing is there: an empty list would trust nobody.
        OSError: it cannot be read.
    """
    keys: list[Ed25519PublicKey] = []
    hashes: set[str] = set()
    if path.exists() and not path.is_dir() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"trust must be a file or a folder of files, got another thing at {path}. Give the keys.")
    for file in sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]:
        content = file.read_bytes()[:_BYTES_MAX]
        keys += [_public_key(pem, file) for pem in _PEM.findall(content)]
        for line in _PEM.sub(b"", content).splitlines():
            match = _HASH.fullmatch(line.strip())
            if match is not None:
                hashes.add(match[1].decode())
            elif line.strip() and not line.lstrip().startswith(b"#"):
                raise ValueError(
                    f"trust must be public keys in PEM form or SHA-256 hashes, got another line in {file}."
                )
    if not keys and not hashes:
        raise ValueError(f"trust must hold a key or a hash, got none in {path}. Add one, or leave --trust out.")
    return Trust(tuple(keys), frozenset(hashes))


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key: `openssl genpkey -algorithm ed25519 -out KEY`.

    One that is encrypted is opened with the variable PROSTATE_ALM_KEY_PASSWORD.

    Raises:
        ValueError: it is no such key, or the password is not its own.
        OSError: it cannot be read.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"key must be a private key in PEM form, got another file, or one without its password, in {path}. "
            f"Make one with: openssl genpkey -algorithm ed25519. Set {PASSWORD_VARIABLE} where it is encrypted."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(
            f"key must be an Ed25519 key, got another kind in {path}. Make one with: openssl genpkey -algorithm ed25519"
        )
    return key


def _public_key(pem: bytes, path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"trust must hold Ed25519 public keys, got what is none in {path}. {_PUBLISH}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"trust must hold Ed25519 public keys, got one of another kind in {path}. {_PUBLISH}")
    return key


def _is_signed(content: PackContent, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(content.signature or b"", content.checksums)
    except InvalidSignature:
        return False
    return True
