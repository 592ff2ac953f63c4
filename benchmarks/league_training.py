"""How a member of the league is trained and judged: settings, entries, recipes and the loop.

`league.py`, `rivals.py`, `base_recipes.py` and `constraint_forms.py` share it.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from prostate_alm.data.cifar10 import ImageSet, read_classes
from prostate_alm.data.cifar10_draws import draw_member
from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.splits import member_seed
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift
from prostate_alm.dtype import fastest_dtype
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import LogitPenalty, make_loss
from prostate_alm.method.metrics import auc, fpr_at_tpr
from prostate_alm.training.networks import CascadeNet, whitened

DRAWS, MEMBERS, EPOCHS, PENALTY = range(3), range(5), 50, 0.1


class Setting(NamedTuple):
    """Two classes of CIFAR-10, and how the training images are drawn of them."""

    majority: int
    minority: int
    ratio: int
    noise_percent: int = 0
    """Of the number of positives in training: so many negatives are labelled as positives, too."""

    def __str__(self) -> str:
        noise = f"-noise{self.noise_percent}" if self.noise_percent else ""
        return f"{self.majority}/{self.minority}-1:{self.ratio}{noise}"


HARD = [Setting(*pair, ratio) for pair, ratio in product([(2, 3), (4, 7), (3, 5)], [9, 19])]
EASY = [Setting(0, 1, 9), Setting(0, 1, 19), Setting(1, 9, 19)]
BALANCED = [Setting(*pair, 2) for pair in ((2, 6), (0, 1), (4, 7), (3, 5))]
NOISY = [Setting(*pair, 9, noise) for pair, noise in product([(0, 1), (4, 7)], [5, 20])]
SETTINGS = {str(one): one for one in [*HARD, *BALANCED, *EASY, *NOISY]}
COLUMNS = ("auc", "fpr_at_tpr100", "fpr_at_tpr98", "fpr_at_tpr95", "fpr_at_tpr90")
STRENGTH = ("mu", "multiplier_max", "relaxation", "margin")
UNSEEN = 1000

Logits = NDArray[np.float32]
Samples = list[dict[str, Any]]
Judge = Callable[[Any, "Entry"], Samples]
"""The two splits of the files, and who plays -> the images that the member is judged on."""


@dataclass(frozen=True)
class Entry:
    """One member of the league: where it plays, with what, and which draw and member it is."""

    setting: str
    method: str
    draw: int
    member: int

    def file(self, folder: Path) -> Path:
        return folder / f"{self.setting}-{self.method}-{self.draw}-{self.member}.npz".replace("/", "_").replace(
            ":", "_"
        )


def loss_of(
    entry: Entry, training: Samples, *, base: nn.Module | None = None, penalty: float = PENALTY
) -> ConstrainedLoss:
    """Return a loss, alone, with the constraint ("+alm"), or with a stronger or weaker one (STRENGTH behind the "+").

    With `base`, that is F in place of the loss that the entry names.
    """
    name, constrained, strength = entry.method.partition("+")
    if base is None:
        base = base_loss(name, training, ratio=SETTINGS[entry.setting].ratio)
    base = LogitPenalty(base, penalty)
    if not constrained:
        return ConstrainedLoss(base)
    given = {} if strength == "alm" else dict(zip(STRENGTH, map(float, strength.split(",")), strict=False))
    return ConstrainedLoss(base, AugmentedLagrangian([sample["sample_id"] for sample in training], **given))


def base_loss(name: str, training: Samples, *, ratio: float) -> nn.Module:
    """Return F by its name, with the values that bundles/cifar10/experiments gives to each."""
    counts = {"class_counts": class_counts(training)}
    return make_loss(name, **{"w_bce": {"weight": ratio / 3}, "cb_bce": counts, "ldam": counts}.get(name, {}))


def class_counts(training: Samples) -> tuple[int, int]:
    positives = sum(sample["label"] for sample in training)
    return len(training) - positives, positives


def plain_gradients(network: nn.Module, loss: ConstrainedLoss, batch: Any) -> None:
    """Leave the gradients of the loss in the network."""
    loss(outputs(network, batch["image"]), batch["label"], batch["sample_id"]).backward()


def adam_w(network: nn.Module, _: ConstrainedLoss, *, weight_decay: float = 1e-4) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.002, weight_decay=weight_decay)


def cascade(initial_scale: float = 6**0.5) -> CascadeNet:
    return CascadeNet(2, [3], features=[16, 32, 64, 128], pooling=[[2, 2]] * 4, initial_scale=initial_scale)


def whitened_cascade(training: Samples) -> nn.Module:
    """Return the network of the bundle with its first weights."""
    return whitened(cascade(), TensorLoader(training))


def unwatched(network: nn.Module, loss: ConstrainedLoss) -> None:
    """Look at nothing."""


class Recipe(NamedTuple):
    """How a member is trained; as it is in the bundle, unless told otherwise."""

    loss: Callable[[Entry, Samples], ConstrainedLoss] = loss_of
    gradients: Callable[[nn.Module, ConstrainedLoss, Any], None] = plain_gradients
    optimizer: Callable[[nn.Module, ConstrainedLoss], torch.optim.Optimizer] = adam_w
    network: Callable[[Samples], nn.Module] = whitened_cascade
    epochs: int = EPOCHS
    after_epoch: Callable[[nn.Module, ConstrainedLoss], None] = unwatched


AS_IT_IS = Recipe()


def screen(
    settings: Sequence[str], methods: Sequence[str], dataset_dir: Path, folder: Path, *, recipe: Recipe = AS_IT_IS
) -> None:
    """Train on the first draw, judge on training images that no member draws; print `figures` and `of_members`."""
    for setting, method in product(settings, methods):
        for member in MEMBERS:
            play(Entry(setting, method, 0, member), dataset_dir, folder, judge=unseen_images, recipe=recipe)
        for labels, members in complete(folder, setting, method)[:1]:
            found = [*figures(labels, members.mean(axis=0)), *of_members(labels, members)]
            print(f"{setting:9} {method:14}", *(f"{value:6.1f}" for value in found), flush=True)


def play(
    entry: Entry, dataset_dir: Path, folder: Path, *, judge: Judge | None = None, recipe: Recipe = AS_IT_IS
) -> None:
    """Train a member and keep its logits, unless they are there or another process is at it."""
    file = entry.file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    with claimed(file) as is_mine:
        if is_mine and not file.exists():
            labels, logits = train(entry, dataset_dir, judge or test_images, recipe)
            partial_file = file.with_suffix(".partial.npz")
            np.savez(partial_file, labels=labels, logits=logits)
            partial_file.replace(file)


@contextlib.contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Hold a lock file beside a result; one that a killed process left behind has to be deleted by hand."""
    lock = file.with_suffix(".lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink()


def test_images(data: Any, entry: Entry) -> Samples:
    return samples(data.test, np.arange(len(data.test.classes)), positive=SETTINGS[entry.setting].minority)


def all_training_images(data: Any, entry: Entry) -> Samples:
    """Return what the other members of a draw, which never saw them, can say of a member's images; by row number."""
    return samples(data.train, np.arange(len(data.train.classes)), positive=SETTINGS[entry.setting].minority)


def share_outranked(logits: Logits, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return, for each row of a positive, the share of the rows of negatives that it outranks."""
    return np.array([np.mean(logits[negatives] < value) for value in logits[positives]])


def unseen_images(data: Any, entry: Entry) -> Samples:
    """Return training images that no member draws at any ratio: draws are nested, 1:2 holds those of rarer ratios."""
    majority, minority, *_ = SETTINGS[entry.setting]
    given = {"majority": majority, "minority": minority, "ratio": 2, "seed": entry.draw}
    drawn = np.concatenate(
        [rows for member in range(10) for rows in draw_member(data.train.classes, **given, member=member)]
    )
    free = np.setdiff1d(np.arange(len(data.train.classes)), drawn)
    chosen = [free[data.train.classes[free] == value][:UNSEEN] for value in (majority, minority)]
    return samples(data.train, np.concatenate(chosen), positive=minority)


def train(entry: Entry, dataset_dir: Path, judge: Judge, recipe: Recipe = AS_IT_IS) -> tuple[NDArray[np.int64], Logits]:
    """Return labels and logits of the images that judge."""
    majority, minority, ratio, noise_percent = SETTINGS[entry.setting]
    data = read_classes(dataset_dir, (majority, minority))
    drawn = draw_member(
        data.train.classes, majority=majority, minority=minority, ratio=ratio, seed=entry.draw, member=entry.member
    )
    training, validation = (samples(data.train, rows, positive=minority) for rows in drawn)
    test = TensorLoader(judge(data, entry))
    seed = member_seed(entry.draw, entry.member, 0, 0)
    mislabel(training, percent=noise_percent, seed=seed)
    torch.manual_seed(seed)
    network = recipe.network(training)
    fit(network, recipe.loss(entry, training), training, TensorLoader(validation), recipe=recipe, seed=seed)
    return scored(network, test)


def samples(images: ImageSet, rows: NDArray[np.int64], *, positive: int) -> Samples:
    return [
        {
            "image": torch.from_numpy(images.images[row]),
            "label": int(images.classes[row] == positive),
            "sample_id": str(row),
        }
        for row in rows
    ]


def mislabel(training: Samples, *, percent: int, seed: int) -> None:
    """Label negatives as positives, so many as are `percent` of the positives, rounded up."""
    negatives = [sample for sample in training if not sample["label"]]
    positives = len(training) - len(negatives)
    for row in np.random.default_rng(seed).permutation(len(negatives))[: math.ceil(positives * percent / 100)]:
        negatives[row]["label"] = 1


def fit(
    network: nn.Module,
    loss: ConstrainedLoss,
    training: Samples,
    validation: TensorLoader,
    *,
    recipe: Recipe,
    seed: int,
) -> None:
    """Train and leave the network with the mean of its weights after each epoch of the second half."""
    batches = StratifiedBatchSampler([sample["label"] for sample in training], batch_size=64, seed=seed)
    loader = TensorLoader(training, batches, augment=mirror_and_shift)
    optimizer = recipe.optimizer(network, loss)
    mean = AveragedModel(network)
    for epoch in range(recipe.epochs):
        loader.set_seed(member_seed(seed, 0, 1, epoch))
        network.train()
        for batch in loader:
            optimizer.zero_grad()
            recipe.gradients(network, loss, batch)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if loss.term is not None:
                loss.term.update_multipliers()
        recipe.after_epoch(network, loss)
        if loss.term is not None:
            loss.term.observe_validation(auc(*scored(network, validation)))
        if epoch >= recipe.epochs // 2:
            mean.update_parameters(network)
    network.load_state_dict(mean.module.state_dict())


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits (B,), computed in bfloat16 where the processor has it, as the bundle does."""
    dtype = fastest_dtype(images.device)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits: Tensor = network(images)
    return logits.float().flatten()


def scored(network: nn.Module, loader: TensorLoader) -> tuple[NDArray[np.int64], Logits]:
    network.eval()
    with torch.no_grad():
        batches = [(batch["label"], outputs(network, batch["image"])) for batch in loader]
    labels, logits = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return labels, logits


def ensembles(folder: Path, setting: str, method: str) -> list[tuple[NDArray[np.int64], Logits]]:
    """Return labels and mean logits of each draw, from 0, whose members are all there."""
    return [(labels, members.mean(axis=0)) for labels, members in complete(folder, setting, method)]


def complete(folder: Path, setting: str, method: str) -> list[tuple[NDArray[np.int64], Logits]]:
    """Return labels and logits (members, images) of each draw, from 0, whose members are all there."""
    found = []
    for draw in DRAWS:
        files = [Entry(setting, method, draw, member).file(folder) for member in MEMBERS]
        if not all(file.exists() for file in files):
            break
        members = [np.load(file) for file in files]
        found.append((members[0]["labels"], np.stack([member["logits"] for member in members])))
    return found


def figures(labels: NDArray[np.int64], logits: Logits) -> list[float]:
    rates = [fpr_at_tpr(labels, logits, tpr) for tpr in (1.0, 0.98, 0.95, 0.90)]
    return [100 * value for value in (auc(labels, logits), *rates)]


def of_members(labels: NDArray[np.int64], members: Logits) -> list[float]:
    """Return the mean AUC of the members, and how their scores of negatives correlate, in percent."""
    correlations = np.corrcoef(members[:, labels == 0])[np.triu_indices(len(members), 1)]
    return [100 * np.mean([auc(labels, logits) for logits in members]), 100 * float(correlations.mean())]
