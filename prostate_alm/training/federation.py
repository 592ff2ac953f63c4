"""A site of a federation: MONAI's client of a bundle, whose images, labels and multipliers stay where they are."""

from pathlib import Path
from typing import Any

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems

from prostate_alm.shipped import TRAINING_CONFIG

_FILES = [TRAINING_CONFIG, "federated.json"]


def make_client(bundle: Path, name: str, *, output_dir: Path, **overrides: Any) -> MonaiAlgo:
    """Return a client that is ready for its first round.

    Args:
        bundle: folder of a bundle with `federated.json`.
        name: of the site.
        output_dir: the site's own folder; its multipliers lie there from round to round. To initialise writes nothing.
        **overrides: of the bundle, such as `manifest` and `member`. Nothing goes to MLflow.
    """
    given = {**overrides, "tracking_uri": "none"}
    client = MonaiAlgo(
        str(bundle),
        send_weight_diff=False,
        config_train_filename=_FILES,
        train_kwargs={**given, "output_dir": str(output_dir)},
        config_evaluate_filename=_FILES,
        eval_kwargs={**given, "output_dir": f"{output_dir}-evaluated"},
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client
