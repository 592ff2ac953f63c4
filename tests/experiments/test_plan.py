import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.experiments.grid import cells, runs_in_all, runs_to_do, search
from prostate_alm.experiments.paper_tables import loss_names
from prostate_alm.experiments.plan import (
    Plan,
    in_numbers,
    read_plan,
    start_or_continue,
    started_plan,
)
from prostate_alm.method.losses import LOSSES, make_loss
from prostate_alm.training.cifar10_member import Cifar10Settings
from prostate_alm.training.settings import read_settings

BUNDLE = Path(__file__).parents[2] / "bundles" / "cifar10"
PLANS = BUNDLE / "experiments"
VALID: dict[str, Any] = {
    "name": "small",
    "bundle": "train.json",
    "dataset": "cifar10",
    "pairs": [[0, 1]],
    "ratios": [2, 9],
    "losses": {"bce": {}, "a_ml": {"margin": [0.1, 0.5]}},
    "alm": {"mu0_rho": [[0.2, 3]], "delta": 1.0},
    "members": 2,
    "seed": 0,
    "settings": {},
}


def shipped(name: str) -> Plan:
    return Plan.model_validate_json((PLANS / f"{name}.json").read_text(encoding="utf-8"))


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text("{}", encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(VALID | changes), encoding="utf-8")
    return folder / "plan.json"


def test_the_papers_grid_is_that_of_appendix_e() -> None:
    plan = shipped("paper")
    assert plan.pairs == ((0, 1), (6, 7))
    assert plan.ratios == (2, 9, 19)
    assert plan.members == 10
    for loss in ("s_ml", "a_ml"):
        assert plan.loss_candidates(loss, 2) == [{"margin": value} for value in (0.1, 0.5, 2, 4)]
    for loss in ("s_fl", "a_fl"):
        assert plan.loss_candidates(loss, 2) == [{"gamma": value} for value in (1, 2, 4, 5)]
    for ratio in plan.ratios:
        expected = [ratio / 3, 2 * ratio / 3, ratio]
        assert [one["weight"] for one in plan.loss_candidates("w_bce", ratio)] == pytest.approx(expected)
    assert plan.loss_candidates("cb_bce", 2) == [{"beta": value} for value in (0.99, 0.999, 0.9999)]
    grid = {(mu0, rho) for mu0 in (0.2, 0.3) for rho in (2, 3, 4)} - {(0.2, 2)}
    assert set(plan.alm.mu0_rho) == grid
    assert plan.alm.delta == (1.0, 1.5, 2.0)
    assert [loss for loss in plan.losses if not plan.has_alm(loss)] == ["mbauc"]
    assert set(plan.losses) == set(LOSSES) - {"ldam"}


def test_the_papers_grid_takes_81_candidates_for_each_pair_and_ratio() -> None:
    # 1 + 4 * 4 + 3 * 2 + 1 + 1 of the losses, and 8 losses with 5 pairs (mu0, rho) and 2 further deltas
    assert runs_in_all(shipped("paper")) == 10 * 6 * (25 + 8 * 7)


@pytest.mark.parametrize("name", ["default", "first"])
def test_a_plan_without_a_grid_knows_all_its_trainings_at_once(name: str) -> None:
    plan = shipped(name)
    runs = runs_to_do([search(plan, cell, look=lambda folder: None) for cell in cells(plan)])
    assert len(runs) == runs_in_all(plan)
    assert all("candidates" not in run.folder.parts for run in runs)


def test_the_first_plan_is_bce_alone_and_with_the_constraint() -> None:
    plan = shipped("first")
    assert (list(plan.losses), plan.ratios, plan.has_alm("bce")) == (["bce"], (2, 9, 19), True)


@pytest.mark.parametrize("name", ["paper", "default", "first"])
def test_every_setting_of_the_shipped_plans_is_one_of_the_bundle(name: str) -> None:
    known = json.loads((BUNDLE / "train.json").read_text(encoding="utf-8"))
    plan = shipped(name)
    runs = runs_to_do([search(plan, cell, look=lambda folder: None) for cell in cells(plan)])
    assert {key for run in runs for key in run.overrides} <= set(known)
    assert read_plan(PLANS / f"{name}.json").bundle.is_file()


@pytest.mark.parametrize("name", ["paper", "default", "first"])
def test_every_loss_of_the_shipped_plans_can_be_made(name: str) -> None:
    plan = shipped(name)
    for cell in cells(plan):
        for parameters in plan.loss_candidates(cell.loss, cell.ratio):
            counts = {"class_counts": (300, 300 // cell.ratio)} if cell.loss == "cb_bce" else {}
            make_loss(cell.loss, **parameters, **counts)


def test_a_plan_may_set_the_parameters_of_a_loss_and_the_data_give_its_class_counts() -> None:
    given = {"cb_bce": {"beta": 0.99}, "ldam": {"max_margin": 0.5, "scale": 2.0}}
    assert set(Plan.model_validate(VALID | {"losses": given}).losses) == {"cb_bce", "ldam"}
    for loss in LOSSES:
        with pytest.raises(ValueError, match=rf"parameters of {loss} must be some of .*got \['class_counts'\]"):
            Plan.model_validate(VALID | {"losses": {loss: {"class_counts": 1.0}}})


@pytest.mark.parametrize(("value", "number"), [("N", 9), ("2N", 18), ("N/3", 3), ("2N/3", 6), (1, 1), (0.1, 0.1)])
def test_a_candidate_may_be_a_multiple_of_the_ratio(value: float | str, number: float) -> None:
    assert in_numbers(value, 9) == number


def test_a_loss_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "t_bce", lambda *, tilt=1.0: lambda logits, labels: tilt * logits.mean())
    plan = Plan.model_validate(VALID | {"losses": {"t_bce": {"tilt": [1, 2]}}})
    (candidate, _) = plan.loss_candidates("t_bce", 9)
    assert make_loss("t_bce", **candidate).extra_repr() == "t_bce, tilt=1.0"
    assert loss_names()["t_bce"] == "T-BCE"
    given = json.loads((BUNDLE / "train.json").read_text(encoding="utf-8"))
    fields = {key: given[key] for key in Cifar10Settings.model_fields} | {"loss": "t_bce"}
    assert read_settings(Cifar10Settings, **fields).ensemble_name == "t_bce-alm"


def test_candidates_that_are_the_same_at_a_ratio_are_one() -> None:
    plan = Plan.model_validate(VALID | {"losses": {"w_bce": {"weight": ["N/3", 3, "N"]}}})
    assert plan.loss_candidates("w_bce", 9) == [{"weight": 3.0}, {"weight": 9.0}]
    assert len(plan.loss_candidates("w_bce", 2)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": [0]}, "ratios.0 must be greater than or equal to 1, got 0 in"),
        ({"ratios": []}, "ratios must be a list of at least one, got [] in"),
        ({"ratios": [2, 2]}, "ratios must be without repetition, got [2, 2] in"),
        ({"pairs": [[1, 1]]}, "pairs must be different pairs of two different classes, got [[1, 1]] in"),
        ({"members": 0}, "members must be greater than or equal to 1, got 0 in"),
        ({"losses": {"hinge": {}}}, "losses must be known losses, got 'hinge'"),
        ({"losses": {"bce": {"gamma": 1}}}, "parameters of bce must be some of [], got ['gamma'] in"),
        (
            {"losses": {"w_bce": {"weight": "M/3"}}},
            "losses.w_bce.weight.0 must be a number, or a multiple of the class",
        ),
        ({"baseline_only": ["msfe"]}, "baseline_only must be losses of the plan, got ['msfe'] in"),
        ({"alm": {"mu0_rho": [[0, 3]], "delta": 1}}, "alm.mu0_rho.0.0 must be greater than 0, got 0 in"),
        ({"alm": {"mu0_rho": [[1, 0.5]], "delta": 1}}, "alm.mu0_rho.0.1 must be greater than or equal to 1, got 0.5"),
        ({"alm": {"mu0_rho": [[1, 2]], "delta": [1, 1]}}, "alm must be without a candidate that is there twice"),
        ({"settings": {"seed": 1}}, "settings must be without what the plan gives each run itself, got ['seed'] in"),
        ({"memebrs": 3}, "memebrs must be absent"),
        ({"bundle": "no.json"}, "bundle must be a config file, got no.json in"),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"plan\.json\.? ") as caught:
        read_plan(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(message)


def test_a_missing_field_and_text_that_is_no_json_are_one_line_each(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(json.dumps({key: value for key, value in VALID.items() if key != "seed"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^seed must be given in .*plan\.json\. Correct the plan\.$"):
        read_plan(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^plan must be JSON, got .*\. Correct the file\.$"):
        read_plan(path)


def test_a_folder_remembers_its_plan_and_refuses_another(tmp_path: Path) -> None:
    plan, root = read_plan(written(tmp_path / "a")), tmp_path / "out"
    start_or_continue(plan, root)
    start_or_continue(plan, root)
    assert started_plan(root) == plan.model_copy(update={"bundle": Path("train.json")})
    with pytest.raises(ValueError, match=r"^plan must be the one .* another members \(members: 3, was 2\) in .*\.$"):
        start_or_continue(read_plan(written(tmp_path / "b", members=3)), root)


def test_a_plan_is_the_same_wherever_it_lies_but_not_with_another_config_file(tmp_path: Path) -> None:
    root = tmp_path / "out"
    start_or_continue(read_plan(written(tmp_path / "a")), root)
    plan = read_plan(written(tmp_path / "b"))
    start_or_continue(plan, root)
    plan.bundle.write_text('{"alm_epochs": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match="got another bundle_sha256"):
        start_or_continue(plan, root)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder must be that of an experiment, got no plan\.json in"):
        started_plan(tmp_path)


def test_importing_the_experiments_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; import prostate_alm.experiments.run, prostate_alm.experiments.report as r; "
        "sys.exit(', '.join({'torch', 'monai', 'matplotlib', 'mlflow'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
