"""One hospital of a federation: what NVFlare starts at each site, round after round.

Weights come and go; images, labels and the multipliers of single studies stay here (`bundles/prostate/federated.json`).

    site.py --manifest data/mine.json --output_dir outputs/site

Needs nvflare beside prostate-alm. `simulate.py` starts it for trying; for hospitals see docs/tutorials/federated.md.
"""

import argparse
from pathlib import Path

import nvflare.client as flare
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from prostate_alm.shipped import shipped_bundle

FILES = ["train.json", "federated.json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="of this site's studies; {site} is its name")
    parser.add_argument("--output_dir", required=True, help="of this site; {site} is its name")
    parser.add_argument("--member", type=int, default=0)
    options = parser.parse_args()
    flare.init()
    name = flare.get_site_name()
    client = make_client(options, name)
    while flare.is_running():
        received = flare.receive()
        weights = ExchangeObject(weights=received.params)
        found = client.evaluate(weights).metrics  # of the mean of the sites, before this one goes on with it
        client.train(weights)
        sent = {key: value.detach().cpu() for key, value in client.get_weights().weights.items()}
        steps = len(client.trainer.data_loader)
        meta = {"NUM_STEPS_CURRENT_ROUND": steps}  # the server weighs the sites by their steps
        flare.send(flare.FLModel(params=sent, metrics={"val_auc": found["val_auc"]}, meta=meta))


def make_client(options: argparse.Namespace, name: str) -> MonaiAlgo:
    manifest, output = (Path(text.format(site=name)).absolute() for text in (options.manifest, options.output_dir))
    given = {"manifest": str(manifest), "member": options.member, "tracking_uri": "none"}
    client = MonaiAlgo(
        str(shipped_bundle("prostate")),
        send_weight_diff=False,
        config_train_filename=FILES,
        train_kwargs={**given, "output_dir": str(output)},
        config_evaluate_filename=FILES,
        eval_kwargs={**given, "output_dir": f"{output}-evaluated"},
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client


if __name__ == "__main__":
    main()
