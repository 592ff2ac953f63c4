"""Several hospitals on one machine, by NVFlare's simulator.

    python examples/federated/simulate.py data/cohort.json outputs/federated --sites 2 --rounds 60

The cohort is dealt out to the sites (`split.py`). At the end outputs/federated/model.pt holds the weights of the round
with the greatest mean validation AUC, as `network_def` of bundles/prostate/train.json loads them. Needs nvflare beside
prostate-alm.
"""

import argparse
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from split import split

from prostate_alm.shipped import TRAINING_CONFIG, shipped_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    manifests, output = split(options.manifest.absolute(), options.sites), options.output_dir.absolute()
    output.mkdir(parents=True, exist_ok=True)
    config = ConfigParser(ConfigParser.load_config_file(shipped_bundle("prostate") / TRAINING_CONFIG))
    network = config.get_parsed_content("network_def", instantiate=False)
    recipe = FedAvgRecipe(
        name="prostate-alm",
        model={"class_path": config.get("network_def")["_target_"], "args": network.resolve_args()},
        min_clients=options.sites,
        num_rounds=options.rounds,
        train_script=str(Path(__file__).with_name("site.py")),
        train_args=f"--manifest {manifests[0].parent}/{{site}}.json --output_dir {output}/{{site}}",
        key_metric="val_auc",
    )
    names = [path.stem for path in manifests]  # a site bears the name of its manifest
    run = recipe.execute(SimEnv(clients=names, num_threads=options.sites, workspace_root=str(output / "workspace")))
    (best,) = Path(run.get_result()).rglob("best_FL_global_model.pt")
    found = torch.load(best, map_location="cpu", weights_only=True)
    torch.save(found["model"], output / "model.pt")
    print(output / "model.pt")


if __name__ == "__main__":
    main()
