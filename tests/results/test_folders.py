"""A trained member and an ensemble on disk, for all who read them."""

from pathlib import Path

import pytest
import torch

from prostate_alm.results.folders import MemberFolder, find_folders, finished_members
from prostate_alm.results.run_folder import EnsembleError


def test_finished_members_are_found_by_number_and_in_order(write_member, tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_member(tmp_path, number)
    (tmp_path / "member-01").mkdir()  # begun, not finished
    (tmp_path / "member-x").mkdir()
    assert list(finished_members(tmp_path)) == [0, 2, 10]


def test_weights_are_those_that_were_saved(tmp_path: Path) -> None:
    saved, other = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    loaded = MemberFolder(tmp_path).load_weights(other)
    image = torch.randn(5, 3)
    assert loaded is other
    assert torch.equal(loaded(image), saved(image))


def test_weights_of_another_network_are_refused_in_a_line(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(EnsembleError, match=r"weights must be those of the bundle's network, got others in .*l\.pt"):
        MemberFolder(tmp_path).load_weights(torch.nn.Linear(4, 1))


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_results_that_are_no_json_object_are_refused_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"^results must be (a )?JSON.* in .*metrics\.json"):
        MemberFolder(tmp_path).metrics  # noqa: B018  # it reads


def test_a_member_of_an_ensemble_is_found_as_that_ensemble(write_member, tmp_path: Path) -> None:
    member = write_member(tmp_path / "bce-alm", 0)
    alone = write_member(tmp_path, 3)
    (tmp_path / "bce-alm" / "ensemble.json").write_text("{}")
    assert [one.path for one in find_folders(member).ensembles] == [tmp_path / "bce-alm"]
    found = find_folders(tmp_path)
    assert ([one.path for one in found.ensembles], [one.path for one in found.members]) == (
        [tmp_path / "bce-alm"],
        [alone],
    )
