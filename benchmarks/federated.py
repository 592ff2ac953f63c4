"""Several sites that train one model together, against all their data in one place and each site alone.

    OMP_NUM_THREADS=1 python benchmarks/federated.py COHORT.json OUTPUT_DIR [--sites 2 4] [--rounds 60] [--members 3]

Each site is MONAI's client (`MonaiAlgo`) of the prostate bundle with `federated.json`; the server is a mean of the
weights, by the number of training studies, after each epoch. `together` is the same with one site that has all
studies, `alone` with one that has its own. The state with the greatest mean validation AUC of the sites counts. All are
judged on the cohort's test studies. Results are kept by name, so that a stopped run goes on.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.fl.utils.exchange_object import ExchangeObject
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "federated"))

from split import split

from prostate_alm.data.manifest import read_manifest
from prostate_alm.method.metrics import auc, fpr_at_tpr
from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.federation import make_client

Weights = Mapping[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--members", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    plans: dict[str, list[Path]] = {"together": [options.manifest]}
    for count in options.sites:
        own = split(options.manifest, count)
        plans[f"{count} sites"] = own
        plans |= {f"alone, {k} of {count}": [path] for k, path in enumerate(own, start=1)}
    for member in range(options.members):
        for name, manifests in plans.items():
            file = result_of(options.output_dir, name, member)
            if not file.exists():
                labels, logits = federation(manifests, member, options.rounds, file.with_suffix(""))
                np.savez(file, labels=labels, logits=logits)
                print(name, member, f"{100 * auc(labels, logits):.1f}", flush=True)
    show(plans, options.output_dir, members=options.members)


def result_of(folder: Path, name: str, member: int) -> Path:
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}-{member}.npz"


def federation(
    manifests: Sequence[Path], member: int, rounds: int, folder: Path
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Train on some sites and return labels and logits of the test studies in the best state."""
    bundle, given = shipped_bundle("prostate"), {"member": member, "overwrite": True}
    clients = [
        make_client(bundle, path.stem, output_dir=folder / path.stem, manifest=str(path), **given) for path in manifests
    ]
    shares = np.array([training_studies(path) for path in manifests], float)
    shares /= shares.sum()
    weights = copied(clients[0].trainer.network.state_dict())
    best, state = -1.0, weights
    for _ in range(rounds):
        returned = []
        for one in clients:
            one.train(ExchangeObject(weights=dict(weights)))
            returned.append(copied(one.get_weights().weights))
        weights = {name: sum(s * one[name] for s, one in zip(shares, returned, strict=True)) for name in weights}
        found = [one.evaluate(ExchangeObject(weights=dict(weights))).metrics["val_auc"] for one in clients]
        if np.mean(found) > best:
            best, state = float(np.mean(found)), copied(weights)
    network = clients[0].trainer.network
    network.load_state_dict(state)
    loader = clients[0].train_workflow.parser.get_parsed_content("member_training#evaluated#test")
    network.eval()
    with torch.inference_mode():
        found = [(batch["label"], network(batch["image"].as_subclass(torch.Tensor)).flatten()) for batch in loader]
    labels, logits = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return labels.astype(np.int64), logits.astype(np.float64)


def training_studies(manifest: Path) -> int:
    return sum(study.split == "train" for study in read_manifest(manifest).studies)


def copied(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def show(plans: Mapping[str, Sequence[Path]], folder: Path, *, members: int) -> None:
    """Print mean and spread of the members, and the mean of their logits, in percent."""
    print(f"{'':16} {'member AUC':>14} {'AUC':>6} {'FPR@95':>7} {'FPR@90':>7}")
    for name in plans:
        found = [np.load(result_of(folder, name, member)) for member in range(members)]
        areas = [100 * auc(one["labels"], one["logits"]) for one in found]
        labels, mean = found[0]["labels"], np.mean([one["logits"] for one in found], axis=0)
        rates = [100 * fpr_at_tpr(labels, mean, tpr) for tpr in (0.95, 0.9)]
        figures = json.dumps([round(value, 1) for value in (100 * auc(labels, mean), *rates)])
        print(f"{name:16} {np.mean(areas):6.1f} ± {np.std(areas, ddof=1) if members > 1 else 0:4.1f} {figures}")


if __name__ == "__main__":
    main()
