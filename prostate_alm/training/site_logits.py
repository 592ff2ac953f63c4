"""What the members of an ensemble say on studies that are not theirs, by the transforms of their bundle."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.transforms import Compose
from numpy.typing import NDArray

from prostate_alm.progress import Progress, silent
from prostate_alm.results.folders import MemberFolder
from prostate_alm.training.cohort_member import sample_of, silence_missing_decoders
from prostate_alm.training.command_line import literal_override
from prostate_alm.training.gland_crop import with_glands
from prostate_alm.training.precision import AutocastInferer
from prostate_alm.training.site_input import Site, TrainedOn

BATCH_SIZE = 4


def member_logits(own: TrainedOn, site: Site, *, progress: Progress = silent) -> NDArray[np.float64]:
    """Return the logits of all members on the studies of a site, (M, N).

    Images are made by the bundle's transforms, once for all members. Each member computes in the precision
    that it was validated in.

    Args:
        own: the ensemble, M members.
        site: N studies.
        progress: called with the studies done and in all.

    Raises:
        EnsembleError: weights are not those of the bundle's network.
    """
    silence_missing_decoders()
    parser = _config(own)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = parser.get_parsed_content("network_def")
    runs = [
        (member.load_weights(copy.deepcopy(network)).eval().to(device), _inferer(member, device))
        for member in own.members
    ]
    samples = [sample_of(study, site.path.parent) for study in site.studies]
    if parser.get("crop") == "gland":
        localiser = parser.get("localiser")
        samples = with_glands(samples, site.studies, site.path.parent, Path(localiser) if localiser else None)
    transforms = parser.get_parsed_content("read_and_normalise") + parser.get_parsed_content("centre_crop")
    images = DataLoader(Dataset(samples, Compose(transforms)), batch_size=BATCH_SIZE)
    parts: list[NDArray[np.float64]] = []
    with torch.inference_mode():
        for batch in images:
            image = batch["image"].as_subclass(torch.Tensor).to(device)
            found = torch.stack([infer(image, module).flatten() for module, infer in runs])  # (M, B)
            parts.append(found.double().cpu().numpy())
            progress(sum(part.shape[1] for part in parts), len(samples))
    return np.concatenate(parts, axis=1)


def _config(own: TrainedOn) -> ConfigParser:
    """Return the bundle's config with the settings and overrides that the ensemble was trained with."""
    parser = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(own.config_file)))
    settings = {name: value for name, value in own.about.get("settings", {}).items() if name in parser}
    overrides = {name: literal_override(value) for name, value in own.about.get("overrides", {}).items()}
    parser.update(settings | overrides)
    return parser


def _inferer(member: MemberFolder, device: torch.device) -> Any:
    recorded = member.config.get("dtype", "float32")
    return AutocastInferer(device, torch.bfloat16 if recorded == "bfloat16" else torch.float32)
