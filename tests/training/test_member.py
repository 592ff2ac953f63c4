import itertools
from pathlib import Path

import pytest
import torch

from prostate_alm.data.manifest import read_manifest
from prostate_alm.training.cohort_member import CohortSettings, member_samples
from prostate_alm.training.member import Member, Samples, base_loss
from prostate_alm.training.settings import read_settings

LOSSES = ("bce", "s_ml", "a_ml", "s_fl", "a_fl", "w_bce", "cb_bce", "msfe", "mbauc", "ldam")
LABELS = [1, 0, 0, 1, 0, 0, 0]


def make_member(loss: str, parameters: dict[str, float] | None = None) -> Member:
    settings = read_settings(
        CohortSettings,
        **dict.fromkeys(("manifest", "recipe", "ratio", "output_dir", "tracking_uri", "parent_run_id")),
        **dict.fromkeys(("alm", "resume", "overwrite"), False),
        **dict.fromkeys(("member", "seed"), 0),
        **dict.fromkeys(("mu0", "rho", "delta", "learning_rate"), 1.0),
        **dict.fromkeys(("pretrain_epochs", "alm_epochs", "batch_size"), 2),
        loss=loss,
        loss_parameters=parameters or {},
        device="cpu",
        precision="auto",
        dataset_dir="data",
        threads=1,
        cache_dir="cache",
    )
    train = [{"label": label, "sample_id": str(i)} for i, label in enumerate(LABELS)]
    return Member(settings, {}, Samples(train, [], [], [], {}))


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_that_a_user_may_name_can_be_made_and_falls_when_ranks_improve(loss: str) -> None:
    function = base_loss(make_member(loss))
    labels = torch.tensor(LABELS)
    right = 2.0 * (2 * labels.float() - 1)
    assert 0 <= function(right, labels) < function(-right, labels)


def test_losses_that_weigh_classes_know_the_training_labels() -> None:
    ours = base_loss(make_member("cb_bce", {"beta": 0.99}))
    logits, labels = torch.zeros(2), torch.tensor([1, 0])
    effective = [(1 - 0.99**count) / (1 - 0.99) for count in (2, 5)]  # Cui et al. 2019, effective number of samples
    weights = torch.tensor([1 / number for number in effective])
    each = torch.tensor([ours(logits[:1], labels[:1]), ours(logits[1:], labels[1:])])
    assert (each[0] / each[1]).item() == pytest.approx((weights[0] / weights[1]).item(), rel=1e-5)


def test_an_unknown_parameter_is_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match=r"^parameters of s_fl must be \['gamma'\], got \['gama'\]"):
        make_member("s_fl", {"gama": 4})


def test_members_take_their_parts_of_the_cohort(cohort: Path) -> None:
    manifest = read_manifest(cohort)
    studies = {study.id: study for study in manifest.studies}
    parts = member_samples(manifest, cohort.parent, seed=0, member=1)
    ids = [[sample["sample_id"] for sample in part] for part in parts]
    assert sorted(itertools.chain(*ids)) == sorted(studies)
    assert all(studies[i].split == "test" for i in ids[2])
    assert all(studies[i].split == "train" for i in ids[0] + ids[1])
    for sample in itertools.chain(*parts):
        assert sample["label"] == studies[sample["sample_id"]].label
        assert Path(sample["t2"]).is_file()
        assert Path(sample["dwi"]).is_file()
    again = member_samples(manifest, cohort.parent, seed=0, member=1)
    assert again == parts
    others = [member_samples(manifest, cohort.parent, seed=0, member=k)[1] for k in range(6)]
    assert len({tuple(s["sample_id"] for s in part) for part in others}) > 1
