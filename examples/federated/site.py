"""One hospital of a federation: what NVFlare starts at each site, round after round.

Weights come and go; images, labels and the multipliers of single studies stay here (`bundles/prostate/federated.json`).

    site.py --manifest data/mine.json --output_dir outputs/site

Needs nvflare beside prostate-alm. `simulate.py` starts it for trying; for hospitals see docs/tutorials/federated.md.
"""

import argparse
from pathlib import Path

import nvflare.client as flare
from monai.fl.utils.exchange_object import ExchangeObject

from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.federation import make_client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="of this site's studies; {site} is its name")
    parser.add_argument("--output_dir", required=True, help="of this site; {site} is its name")
    parser.add_argument("--member", type=int, default=0)
    options = parser.parse_args()
    flare.init()
    name = flare.get_site_name()
    manifest, output = (Path(text.format(site=name)).absolute() for text in (options.manifest, options.output_dir))
    bundle = shipped_bundle("prostate")
    client = make_client(bundle, name, output_dir=output, manifest=str(manifest), member=options.member)
    while flare.is_running():
        received = flare.receive()
        weights = ExchangeObject(weights=received.params)
        found = client.evaluate(weights).metrics  # of the mean of the sites, before this one goes on with it
        client.train(weights)
        sent = {key: value.detach().cpu() for key, value in client.get_weights().weights.items()}
        steps = len(client.trainer.data_loader)
        meta = {"NUM_STEPS_CURRENT_ROUND": steps}  # the server weighs the sites by their steps
        flare.send(flare.FLModel(params=sent, metrics={"val_auc": found["val_auc"]}, meta=meta))


if __name__ == "__main__":
    main()
