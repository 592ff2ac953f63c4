"""Members trained at once against each of them trained alone, on a stand-in of CIFAR-10."""

import csv
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss
from prostate_alm.training.cifar10_member import Cifar10Settings
from prostate_alm.training.fanout import MemberTask, run_tasks
from prostate_alm.training.grouped_network import GroupedNetwork, stack_parameters
from prostate_alm.training.networks import CascadeNet
from prostate_alm.training.samples import Samples
from prostate_alm.training.settings import read_settings
from prostate_alm.training.together import train_together
from prostate_alm.training.trainer import Loaders, Schedule, TwoStageTraining

CONFIG_FILE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10" / "train.json"

Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

MEMBERS: dict[str, dict[str, Any]] = {
    "bce with the constraint": {"loss": "bce"},
    "focal, other margin and batches": {"loss": "a_fl", "margin": 2.0, "batch_size": 11},
    "mbauc alone": {"loss": "mbauc", "alm": False},
    "class-balanced, ratio 1:4": {"loss": "cb_bce", "ratio": 4},
}

# mbauc depends on differences of logits only: the gradient of the bias is nothing but rounding, which Adam makes as
# large as any other, so that in float32 the common offset of the logits is random, in either way of training.
MBAUC = 2


class DoubleLoader(TensorLoader):
    """Images in float64: rounding then is far below any difference of two algorithms."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from (batch | {"image": batch["image"].double()} for batch in super().__iter__())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are so small here that sharing them out takes longer than computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read_samples(images: Path, *, member: int, ratio: int) -> Samples:
    values: dict[str, Any] = {
        **dict.fromkeys(("output_dir", "tracking_uri", "parent_run_id")),
        **dict.fromkeys(("alm", "resume", "overwrite"), False),
        **dict.fromkeys(("seed", "majority"), 0),
        **dict.fromkeys(("mu0", "rho", "delta", "learning_rate", "minority"), 1),
        **dict.fromkeys(("pretrain_epochs", "alm_epochs", "batch_size"), 2),
        **{"dataset_dir": images, "train_majority": 24, "validation_majority": 12, "device": "cpu"},
        **{
            "loss": "bce",
            "loss_parameters": {},
            "precision": "float32",
            "threads": 1,
            "member": member,
            "ratio": ratio,
        },
    }
    return read_settings(Cifar10Settings, **values).read_samples()


def make_training(
    images: Path,
    member: int,
    *,
    loss: str = "bce",
    alm: bool = True,
    margin: float = 1.0,
    ratio: int = 2,
    batch_size: int = 16,
    epochs: tuple[int, int] = (2, 3),
    patience: int = 10,
    optimizer: Optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    loader: type[TensorLoader] = TensorLoader,
) -> TwoStageTraining:
    samples = read_samples(images, member=member, ratio=ratio)
    labels = [sample["label"] for sample in samples.train]
    counts = {"class_counts": (labels.count(0), labels.count(1))} if loss == "cb_bce" else {}
    ids = [sample["sample_id"] for sample in samples.train]
    term = AugmentedLagrangian(ids, margin=margin, mu=0.2, rho=2.0, reduction="mean") if alm else None
    torch.manual_seed(member)
    network = CascadeNet(2, (3,), features=(4, 6), pooling=((2, 2), (2, 2)))
    train = loader(samples.train, StratifiedBatchSampler(labels, batch_size, seed=0), augment=mirror_and_shift)
    return TwoStageTraining(
        network.double() if loader is DoubleLoader else network,
        ConstrainedLoss(make_loss(loss, **counts), term),
        optimizer=optimizer,
        loaders=Loaders(train, loader(samples.validation, batch_size=batch_size), loader(samples.test)),
        schedule=Schedule(*epochs, patience, gradient_norm_max=1.0, seed=0, member=member),
        device="cpu",
        randomizers=[train.set_seed],
    )


def make_group(images: Path, **changes: Any) -> list[TwoStageTraining]:
    return [make_training(images, number, **{**own, **changes}) for number, own in enumerate(MEMBERS.values())]


def train_alone(trainings: Sequence[TwoStageTraining], folder: Path) -> None:
    for number, training in enumerate(trainings):
        training.run(folder / f"alone-{number}.pt")


def loaders_of_an_epoch(training: TwoStageTraining) -> tuple[Any, Any]:
    return training.loaders.train, training.loaders.validation


def assert_same(one: TwoStageTraining, other: TwoStageTraining, *, tolerance: float) -> None:
    """Compare each figure of each epoch, the multipliers and the logits of the best state on the test images."""
    assert [sorted(row) for row in one.history] == [sorted(row) for row in other.history]
    for row, expected in zip(one.history, other.history, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    if one.constraint is not None and other.constraint is not None:
        multipliers = dict(other.constraint.multipliers)
        assert dict(one.constraint.multipliers) == pytest.approx(multipliers, rel=tolerance, abs=tolerance)
    logits = [training.evaluate(training.loaders.test).logits for training in (one, other)]
    np.testing.assert_allclose(*logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("spatial_dims", "path_channels", "pooling", "grid"),
    [(2, (3,), ((2, 2), (2, 2)), (12, 9)), (3, (1, 3), ((2, 2, 1), (2, 2, 2)), (8, 10, 5))],
)
def test_a_grouped_network_is_each_of_its_networks(
    spatial_dims: int, path_channels: tuple[int, ...], pooling: Any, grid: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    networks = [CascadeNet(spatial_dims, path_channels, features=(4, 8), pooling=pooling) for _ in range(3)]
    images, gradient = torch.randn(3, 5, sum(path_channels), *grid), torch.randn(3, 5)
    parameters = stack_parameters(networks)
    logits = GroupedNetwork(networks[0])(images, parameters)
    gradients = torch.autograd.grad(logits, list(parameters.values()), gradient)
    for number, network in enumerate(networks):
        own = network(images[number]).flatten()
        torch.testing.assert_close(logits[number], own, rtol=1e-5, atol=1e-5)
        own.backward(gradient[number])
        for name, part, value in zip(parameters, gradients, network.parameters(), strict=True):
            torch.testing.assert_close(part[number], value.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_together_is_the_same_algorithm_as_alone(images: Path, tmp_path: Path) -> None:
    together, alone = make_group(images, loader=DoubleLoader), make_group(images, loader=DoubleLoader)
    state = torch.get_rng_state()
    assert sorted(end.number for end in train_together(together)) == [0, 1, 2, 3]
    assert torch.equal(torch.get_rng_state(), state)  # nobody drew from the source that members share
    train_alone(alone, tmp_path)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, tolerance=1e-9)


def test_together_in_float32_gives_the_auc_of_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = make_group(images), make_group(images)
    calls: list[int] = []
    forward = GroupedNetwork.forward
    monkeypatch.setattr(GroupedNetwork, "forward", lambda *inputs: calls.append(len(inputs[1])) or forward(*inputs))
    list(train_together(together))
    batches = [max(map(len, loaders)) for loaders in zip(*map(loaders_of_an_epoch, together), strict=True)]
    assert len(calls) == 5 * sum(batches)  # nobody trains while others could, too
    train_alone(alone, tmp_path)
    for one, other in zip(together, alone, strict=True):
        areas = [[row["val_auc"] for row in training.history] for training in (one, other)]
        assert areas[0] == pytest.approx(areas[1], abs=1e-3)
        if one is not together[MBAUC]:
            assert_same(one, other, tolerance=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=2e-4),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    ],
    ids=["sgd", "adam"],
)
def test_any_optimizer_and_no_first_stage(images: Path, tmp_path: Path, optimizer: Optimizer) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "epochs": (0, 2), "loader": DoubleLoader}
    together, alone = ([make_training(images, number, **changes) for number in range(2)] for _ in range(2))
    list(train_together(together))
    train_alone(alone, tmp_path)
    for one, other in zip(together, alone, strict=True):
        assert [row["stage"] for row in one.history] == [1.0, 1.0]
        assert_same(one, other, tolerance=1e-9)


def test_patience_ends_each_member_and_stage_at_its_own_time(images: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": (7, 7), "patience": 2, "loader": DoubleLoader}
    together, alone = make_group(images, **changes), make_group(images, **changes)
    order = [end.number for end in train_together(together)]
    train_alone(alone, tmp_path)
    lengths = [[len(list(rows)) for _, rows in itertools.groupby(t.history, key=lambda r: r["stage"])] for t in alone]
    assert len({sum(each) for each in lengths}) > 1
    assert any(first < 7 for first, _ in lengths)
    assert order == sorted(range(4), key=lambda number: (sum(lengths[number]), number))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, tolerance=1e-8)


class FiniteLossOfInfiniteSlope(nn.Module):
    """A cross-entropy whose gradient overflows in some of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        value = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        if self.calls % 3 == 2 and logits.requires_grad:
            value.register_hook(lambda gradient: gradient * math.inf)
        return value


def test_a_step_without_finite_gradient_is_skipped_for_its_member_only(images: Path, tmp_path: Path) -> None:
    def make() -> list[TwoStageTraining]:
        trainings = make_group(images, loader=DoubleLoader)[:2]
        trainings[1].loss.base = FiniteLossOfInfiniteSlope()
        return trainings

    together, alone = make(), make()
    list(train_together(together))
    train_alone(alone, tmp_path)
    term = together[1].constraint
    assert term is not None
    assert term.get_extra_state()["skipped"] > 0
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, tolerance=1e-9)


def test_a_member_that_diverges_fails_alone(images: Path, tmp_path: Path) -> None:
    def explode(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e30)

    together, alone = make_group(images), make_group(images)
    together[1] = make_training(images, 1, optimizer=explode)
    errors = {end.number: end.error for end in train_together(together)}
    assert "logits must be finite" in str(errors.pop(1))
    assert errors == {0: None, 2: None, 3: None}
    train_alone([alone[0], alone[2], alone[3]], tmp_path)
    for number in (0, 3):
        assert_same(together[number], alone[number], tolerance=1e-5)
    assert len(together[MBAUC].history) == len(alone[MBAUC].history)


def test_an_interrupted_group_goes_on_together_or_alone(images: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": (11, 3), "loader": DoubleLoader}

    def make() -> list[TwoStageTraining]:
        return [make_training(images, number, **changes) for number in range(2)]

    class Killed(BaseException):
        """Stands for the end of the process."""

    def kill_in_epoch_12(seed: int, *, training: TwoStageTraining) -> None:
        if len(training.history) == 11:
            raise Killed

    whole, killed = make(), make()
    train_alone(whole, tmp_path)
    files = [tmp_path / f"together-{number}.pt" for number in range(2)]
    killed[1].randomizers = [*killed[1].randomizers, lambda seed: kill_in_epoch_12(seed, training=killed[1])]
    with pytest.raises(Killed):
        list(train_together(killed, checkpoints=files))
    together, alone = make(), make()
    alone[1].run(Path(shutil.copy(files[1], tmp_path / "copy.pt")))
    list(train_together(together, checkpoints=files))
    for training in (*together, alone[1]):
        assert_same(training, whole[training.schedule.member], tolerance=1e-9)


def test_members_that_cannot_be_grouped_are_refused(images: Path) -> None:
    one, other = make_training(images, 0), make_training(images, 1)
    other.network = CascadeNet(2, (3,), features=(4, 8), pooling=((2, 2), (2, 2)))
    with pytest.raises(
        ValueError, match=r"architecture must be the same for all members of a group, got .*Conv2d\(4, 6"
    ):
        train_together([one, other])
    other.network = nn.Sequential(nn.Dropout(), nn.Flatten())
    with pytest.raises(ValueError, match="members trained together must have a CascadeNet, got Sequential"):
        train_together([other])
    with pytest.raises(ValueError, match="trainings must hold at least one member"):
        train_together([])


def make_tasks(images: Path, folder: Path, *losses: str, **more: Any) -> list[MemberTask]:
    common = {
        **{"dataset_dir": images, "train_majority": 20, "validation_majority": 10, "batch_size": 16},
        **{"pretrain_epochs": 1, "alm_epochs": 2, "precision": "float32", "tracking_uri": "none"},
    }
    members = [{"member": number, "loss": loss, **more} for number, loss in enumerate(losses)]
    return [MemberTask(CONFIG_FILE, folder / f"member-{own['member']:02d}", {**common, **own}) for own in members]


def read_logits(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "predictions.csv").open(newline="") as stream:
        return {(row["split"], row["sample_id"]): float(row["logit"]) for row in csv.DictReader(stream)}


def test_tasks_leave_behind_what_the_bundle_command_does(images: Path, tmp_path: Path) -> None:
    alone = make_tasks(images, tmp_path / "alone", "bce", "a_fl")
    together = make_tasks(images, tmp_path / "together", "bce", "a_fl")
    for tasks, executor in ((alone, "local"), (together, "together")):
        outcomes = run_tasks(tasks, jobs=None if executor == "together" else 1, executor=executor)
        assert [(outcome.task, outcome.failure) for outcome in outcomes] == [(task, None) for task in tasks]
    for one, other in zip(together, alone, strict=True):
        folders = (one.output_dir, other.output_dir)
        assert len({tuple(sorted(path.name for path in folder.iterdir())) for folder in folders}) == 1
        assert len({(folder / "config.json").read_bytes() for folder in folders}) == 1
        assert read_logits(folders[0]) == pytest.approx(read_logits(folders[1]), rel=1e-4, abs=1e-4)
        areas = [json.loads((folder / "metrics.json").read_text())["test"]["auc"] for folder in folders]
        assert areas[0] == pytest.approx(areas[1], abs=1e-3)
    before = (together[0].output_dir / "metrics.json").stat().st_mtime_ns
    assert [outcome.failure for outcome in run_tasks(together, executor="together")] == [None, None]
    assert (together[0].output_dir / "metrics.json").stat().st_mtime_ns == before


def test_tasks_that_cannot_join_their_group_fail_alone(images: Path, tmp_path: Path) -> None:
    tasks = make_tasks(images, tmp_path, "bce", "bce", "bce", "bce")
    (tmp_path / "member-01").mkdir()
    (tmp_path / "member-01" / "notes.txt").write_text("mine")
    changes = {2: {"network_def#features": [8, 16, 32, 64]}, 3: {"sede": 3}}
    for number, own in changes.items():
        tasks[number] = MemberTask(CONFIG_FILE, tasks[number].output_dir, {**tasks[number].overrides, **own})
    failures = {outcome.task.output_dir.name: outcome.failure for outcome in run_tasks(tasks, executor="together")}
    assert failures.pop("member-00") is None
    assert [failure and failure.partition(",")[0] for failure in failures.values()] == [
        "output_dir must be a new or empty folder",
        "ValueError: architecture must be the same for all members of a group",
        "override must be a key of the config file",
    ]
    assert "architecture must be" in tasks[2].log_file.read_text()
    assert not tasks[3].output_dir.exists()
