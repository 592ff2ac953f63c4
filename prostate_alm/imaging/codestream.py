"""What a compressed frame says of its own size, which a decoder may silently cut to that of the header."""

from __future__ import annotations

import struct

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_NO_FRAMES = frozenset((0xC4, 0xC8, 0xCC))  # tables and extensions among the numbers of frame headers
_JPEG_LS = 0xF7


def coded_size(frame: bytes) -> tuple[int, int] | None:
    r"""Return rows and columns in the headers of a JPEG, JPEG-LS or JPEG 2000 stream, None for any other.

    Args:
        frame: one frame, without the items that it is sent in.

    Reference: ISO/IEC 10918-1 B.2.2 (frame header), 14495-1 C.2.2 (the same), 15444-1 A.5.1 (SIZ).

    Example:
        >>> coded_size(b"\xff\xd8\xff\xf7\x00\x0b\x0c\x00\x40\x00\x20\x01\x01\x11\x00")
        (64, 32)
    """
    if frame.startswith(_JPEG_2000) and len(frame) >= 24:
        right, lower, left, upper = struct.unpack_from(">IIII", frame, 8)
        return lower - upper, right - left
    at = 2 if frame.startswith(_JPEG) else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", frame, at)
        if marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES):
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length  # fill bytes
    return None
