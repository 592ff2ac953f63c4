"""Sites of a federation, each a client of MONAI that drives the bundle; the server is a mean of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.method.lagrangian import AugmentedLagrangian
from prostate_alm.training.federation import make_client

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10"
SIZES = {"ratio": 4, "train_majority": 40, "validation_majority": 20, "batch_size": 16}

pytestmark = [
    pytest.mark.filterwarnings("ignore:executing the bundle config"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

Weights = Mapping[str, torch.Tensor]


def site(number: int, images: Path, folder: Path, **more: Any) -> MonaiAlgo:
    """Return the client of a site, which has the images that a member draws."""
    given = {"dataset_dir": str(images), "member": number, **SIZES, **more}
    return make_client(BUNDLE, f"site-{number}", output_dir=folder / f"site-{number}", **given)


def term_of(client: MonaiAlgo) -> AugmentedLagrangian:
    term: AugmentedLagrangian = client.trainer.loss_function.term
    return term


def mean_of(weights: list[Weights]) -> Weights:
    return {name: torch.stack([one[name] for one in weights]).mean(0) for name in weights[0]}


@pytest.mark.slow
def test_rounds_move_weights_and_leave_multipliers_at_their_site(tmp_path: Path) -> None:
    images = write_stand_in(tmp_path / "cifar", images_per_class=60)
    clients = [site(number, images, tmp_path) for number in (0, 1)]
    assert not (tmp_path / "site-0").exists()  # to initialise begins no run
    weights: Weights = {name: value.clone() for name, value in clients[0].trainer.network.state_dict().items()}
    seen: list[list[dict[str, float]]] = [[], []]
    for number in (1, 2):
        returned: list[Weights] = []
        for k, client in enumerate(clients):
            client.train(ExchangeObject(weights=weights))
            exchanged = client.get_weights()
            assert set(exchanged.weights) == set(weights)  # nothing of a sample leaves the site
            assert client.trainer.state.epoch == number
            returned.append({name: value.clone() for name, value in exchanged.weights.items()})
            seen[k].append(dict(term_of(client).multipliers))
        weights = mean_of(returned)
        found = [client.evaluate(ExchangeObject(weights=weights)).metrics for client in clients]
        assert all(0 <= metrics["val_auc"] <= 1 for metrics in found)
    assert not any(torch.equal(returned[0][name], returned[1][name]) for name in weights)
    for k, client in enumerate(clients):
        ids = set(client.train_workflow.parser.get_parsed_content("prepared").train_ids)
        assert set(seen[k][1]) <= ids
        grown = {name: value for name, value in seen[k][0].items() if value > 0}
        assert grown
        assert all(name in seen[k][1] for name in grown)  # lambda of the first round goes on in the second
    assert {term_of(client).mu for client in clients} == {3.0}  # one mu for all sites

    again = site(0, images, tmp_path, resume=True)  # a site that was restarted
    again.trainer.add_event_handler(Events.STARTED, lambda _: seen[0].append(dict(term_of(again).multipliers)))
    again.train(ExchangeObject(weights=weights))
    assert seen[0][2] == seen[0][1]
    assert again.trainer.state.epoch == 1
