"""What a member is trained, validated and tested on."""

from dataclasses import dataclass
from typing import Any

Sample = dict[str, Any]
"""`label` (0 or 1, or the number of one of several classes), `sample_id`, and what transforms make the image from."""


@dataclass(frozen=True)
class Samples:
    """Samples of a member.

    `test_extra` are the positives that a test set of the class ratio leaves out; `test` and `test_extra` together are
    all test samples. `identity` says in `config.json` which data these are.
    """

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    test_extra: list[Sample]
    identity: dict[str, str]
