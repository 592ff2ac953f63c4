"""A packed model: what opening it gives, and what it refuses."""

from pathlib import Path

import numpy as np
import torch

from prostate_alm.delivery.package import PackedModel
from prostate_alm.training.networks import CascadeNet


def test_the_opened_model_is_the_mean_of_the_members(packed_model: PackedModel, ensemble_folder: Path) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 40, 40, 20)).astype(np.float32))
    logits = []
    for number in range(3):
        member = CascadeNet(3, (1, 3), features=(8, 16, 32), pooling=((2, 2, 1), (2, 2, 2), (2, 2, 2)))
        member.load_state_dict(torch.load(ensemble_folder / f"member-{number:02d}" / "model.pt", weights_only=True))
        logits.append(member(image).detach().numpy())
    np.testing.assert_allclose(packed_model.network(image).numpy(), np.mean(logits, axis=0), atol=1e-6)
