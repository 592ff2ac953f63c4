"""What trainer, handlers, tracking and data loading add to the bare forward-backward-step of the prostate bundle.

    python benchmarks/training_overhead.py [--epochs 8]

Trains the bundle on the synthetic cohort. Between its epochs, in the same process and so at the same speed of the
machine, a bare loop does the same number of steps and validation passes on tensors that are ready. Prints the median
seconds of both and the ratio.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import nn

from prostate_alm import tracking
from prostate_alm.training.engines import Training
from prostate_alm.training.stages import Stages

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "prostate" / "train.json"


class BareEpochs:
    """The same network and optimizer on batches that were made before."""

    def __init__(self, training: Training) -> None:
        self.network = copy.deepcopy(training.network)
        group = training.trainer.optimizer.param_groups[0]
        own = self.network.parameters()
        self.optimizer = torch.optim.AdamW(own, lr=group["lr"], weight_decay=group["weight_decay"])
        self.train = [(batch["image"], batch["label"].float()[:, None]) for batch in training.trainer.data_loader]
        self.validation = [batch["image"] for batch in training.evaluator.data_loader]

    def seconds(self) -> float:
        """Return the duration of one epoch."""
        start = time.perf_counter()
        self.network.train()
        for image, label in self.train:
            self.optimizer.zero_grad(set_to_none=True)
            nn.functional.binary_cross_entropy_with_logits(self.network(image), label).backward()
            self.optimizer.step()
        self.network.eval()
        with torch.no_grad():
            for image in self.validation:
                self.network(image)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each stage (default: %(default)s)")
    epochs = parser.parse_args().epochs
    config = ConfigParser(ConfigParser.load_config_file(CONFIG))
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        config.update(
            {"pretrain_epochs": epochs, "alm_epochs": epochs, "output_dir": f"{folder}/out", "tracking_uri": uri}
        )
        training: Training = config.get_parsed_content("member_training")
        bare = BareEpochs(training)
        run = tracking.start_member_run(tracking.NewRun("prostate", "overhead", "member-00", {}), tracking_uri=uri)
        whole_s, bare_s = measure(training, bare, run)
    print(f"{'stage':10} {'whole, s':>9} {'bare, s':>9} {'ratio':>6}   (medians of {epochs - 1} epochs)")
    for number in range(2):
        part = slice(number * epochs + 1, (number + 1) * epochs)  # the first epoch of a stage warms up
        whole, plain = statistics.median(whole_s[part]), statistics.median(bare_s[part])
        print(f"{training.handler(Stages).name_of(number):10} {whole:9.3f} {plain:9.3f} {whole / plain:6.2f}")


def measure(training: Training, bare: BareEpochs, run: tracking.MemberRun) -> tuple[list[float], list[float]]:
    """Return the seconds of each epoch of the bundle and of each bare epoch, taken in turn."""
    whole_s: list[float] = []
    bare_s: list[float] = []
    start = time.perf_counter()

    def on_epoch(history: list[dict[str, float]]) -> None:
        nonlocal start
        run.log_epochs(history)
        whole_s.append(time.perf_counter() - start)
        bare_s.append(bare.seconds())
        start = time.perf_counter()

    training.run(on_epoch=on_epoch)
    return whole_s, bare_s


if __name__ == "__main__":
    main()
