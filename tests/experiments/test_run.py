import json
import random
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.experiments import run
from prostate_alm.experiments.plan import Plan
from prostate_alm.experiments.run import run_experiment
from prostate_alm.experiments.standing import Standing
from prostate_alm.training import ensemble, fanout
from prostate_alm.training.fanout import MemberTask, TaskEnd

POISON = "a test metric: the choice must not depend on it"
GRID: dict[str, Any] = {
    "name": "small",
    "bundle": "train.json",
    "dataset": "cifar10",
    "pairs": [[0, 1]],
    "ratios": [2, 9],
    "losses": {"bce": {}, "a_ml": {"margin": [0.1, 0.5]}, "mbauc": {}},
    "baseline_only": ["mbauc"],
    "alm": {"mu0_rho": [[0.2, 3], [0.3, 2]], "delta": [1.0, 1.5]},
    "members": 2,
    "seed": 0,
    "settings": {},
}
ONE_RECIPE = GRID | {
    "losses": {"bce": {}, "a_ml": {"margin": 0.5}},
    "baseline_only": [],
    "alm": {"mu0_rho": [[0.2, 3]], "delta": 1},
}
OF_GRID = 2 * 2 * (1 + 2 + 1 + 2 * 3)


class Trainer:
    """Writes the results of a member for each task; `calls` is what it was asked, `trained` what it did."""

    def __init__(self, auc: Callable[[Mapping[str, Any]], float], *, test: Any) -> None:
        self.auc, self.test = auc, test
        self.calls: list[list[MemberTask]] = []
        self.trained: list[Path] = []
        self.checked: list[Mapping[str, Any]] = []
        self.fails: Callable[[MemberTask], bool] = lambda task: False
        self.stops_after: int | None = None

    def __call__(
        self, tasks: Sequence[MemberTask], *, jobs: int | None, executor: str
    ) -> Generator[TaskEnd, None, None]:
        self.calls.append(list(tasks))
        for task in tasks:
            if len(self.trained) == self.stops_after:
                write(task.output_dir / "config.json", {})  # begun, not finished
                raise KeyboardInterrupt
            if self.fails(task):
                yield TaskEnd(task, "the loss must be finite, got nan")
            else:
                self._train(task)
                yield TaskEnd(task, None)

    def _train(self, task: MemberTask) -> None:
        for name in ("checkpoint.pt", "model.pt", "predictions.csv", "history.csv", "roc.png"):
            write(task.output_dir / name, str(task.output_dir))
        write(task.output_dir / "config.json", {"settings": dict(task.overrides)})
        metrics = {"validation": {"auc": self.auc(task.overrides)}, "test": self.test, "test_all_positives": self.test}
        write(task.output_dir / "metrics.json", metrics)
        self.trained.append(task.output_dir)


class Evaluator:
    """Writes an ensemble's metrics from the members that are there; `calls` holds folders and baselines, by name."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []

    def __call__(self, folder: Path, *, baseline: Path | None) -> dict[str, Any]:
        self.calls.append((folder.name, baseline and baseline.name))
        members = sorted(int(path.parent.name[-2:]) for path in folder.glob("member-*/metrics.json"))
        if len(members) < 2:
            raise ValueError(f"an ensemble must have at least 2 finished members, got {len(members)} in {folder.name}.")
        made = {"members": members, "against_baseline": baseline and {"baseline": baseline.name}}
        write(folder / "metrics.json", made)
        if not (folder / "ensemble.json").is_file():  # like the real one, which describes the members there
            write(folder / "ensemble.json", read(folder / "member-00" / "config.json"))
        return made


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def by_chance(overrides: Mapping[str, Any]) -> float:
    """Return an AUC that looks random and is the same for the same settings."""
    return 0.8 + 0.2 * random.Random(json.dumps(dict(overrides), sort_keys=True)).random()


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer(by_chance, test=POISON)
    monkeypatch.setattr(fanout, "run_tasks", trainer)
    monkeypatch.setattr(run, "ensure_data", lambda plan, overrides: trainer.checked.append(overrides))
    return trainer


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> Evaluator:
    evaluator = Evaluator()
    monkeypatch.setattr(ensemble, "evaluate_ensemble", evaluator)
    return evaluator


def plan_in(folder: Path, content: dict[str, Any]) -> Plan:
    write(folder / "train.json", {})
    return Plan.model_validate(content | {"bundle": str(folder / "train.json")})


def results(root: Path) -> dict[str, str]:
    """Return all files of an experiment with their content, without what names the root."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_text().replace(str(root), "ROOT") for path in files}


@pytest.mark.usefixtures("evaluator")
def test_a_plan_without_a_grid_is_one_call_and_members_go_straight_to_their_place(
    tmp_path: Path, trainer: Trainer
) -> None:
    root = tmp_path / "out"
    report = run_experiment(plan_in(tmp_path, ONE_RECIPE), root, local_settings={"dataset_dir": "data"})
    assert [len(call) for call in trainer.calls] == [16]
    assert (report.total, report.done, report.failures, report.is_complete) == (16, 16, {}, True)
    assert len(report.ensembles) == 8
    assert not list(root.rglob("candidates"))
    task = trainer.calls[0][-1]
    assert task.output_dir == root / "cifar10-0-1" / "1-9" / "a_ml-alm" / "member-01"
    assert task.config_file == tmp_path / "train.json"
    assert task.overrides["dataset_dir"] == "data"
    assert trainer.checked == [trainer.calls[0][0].overrides]  # once, as the first member has them
    chosen = read(task.output_dir.parent / "selection.json")
    assert chosen["parameters"] == {"margin": 0.5, "mu0": 0.2, "rho": 3, "delta": 1}


def test_each_constrained_ensemble_is_compared_with_its_baseline(tmp_path: Path, evaluator: Evaluator) -> None:
    run_experiment(plan_in(tmp_path, GRID), tmp_path / "out")
    expected = [("bce-baseline", None), ("a_ml-baseline", None), ("mbauc-baseline", None)]
    expected += [("bce-alm", "bce-baseline"), ("a_ml-alm", "a_ml-baseline")]
    assert sorted(evaluator.calls, key=str) == sorted(expected * 2, key=str)


def test_the_comparison_waits_for_a_baseline_that_is_trained_later(
    tmp_path: Path, evaluator: Evaluator, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_reverse(tasks: Sequence[MemberTask], **options: Any) -> Generator[TaskEnd, None, None]:
        yield from trainer(tasks[::-1], **options)

    monkeypatch.setattr(fanout, "run_tasks", in_reverse)
    run_experiment(plan_in(tmp_path, ONE_RECIPE), tmp_path / "out")
    assert len(evaluator.calls) == 8
    assert {baseline for name, baseline in evaluator.calls if name == "bce-alm"} == {"bce-baseline"}


@pytest.mark.usefixtures("evaluator")
def test_the_grid_takes_three_calls_and_every_training_once(tmp_path: Path, trainer: Trainer) -> None:
    report = run_experiment(plan_in(tmp_path, GRID), tmp_path / "out")
    assert len(trainer.calls) == 3
    assert len(trainer.trained) == len(set(trainer.trained)) == OF_GRID == report.total == report.done


@pytest.mark.usefixtures("evaluator")
def test_the_choice_is_the_best_validation_auc_by_a_plain_count(tmp_path: Path, trainer: Trainer) -> None:
    root = tmp_path / "out"
    run_experiment(plan_in(tmp_path, GRID), root)
    folders = list(root.glob("cifar10-0-1/*/a_ml-baseline"))
    assert folders
    for folder in folders:
        means = {
            candidate.name: sum(read(file)["validation"]["auc"] for file in candidate.glob("*/metrics.json")) / 2
            for candidate in (folder / "candidates").iterdir()
        }
        assert len(means) == 2
        best = max(means, key=lambda name: means[name])
        selection = read(folder / "selection.json")
        assert selection["parameters"] == {"margin": float(best.removeprefix("margin-"))}
        assert selection["validation_auc_mean"] == pytest.approx(means[best])
        (stage,) = selection["stages"]
        listed = {Path(one["folder"]).name: one["validation_auc_mean"] for one in stage["candidates"]}
        assert listed == pytest.approx(means)
        assert [Path(one["folder"]).name for one in stage["candidates"] if one["chosen"]] == [best]
        assert (folder / "member-01" / "model.pt").read_text() == str(folder / "candidates" / best / "member-01")


@pytest.mark.usefixtures("evaluator")
def test_the_chosen_members_are_copied_without_their_checkpoints(tmp_path: Path) -> None:
    root = tmp_path / "out"
    run_experiment(plan_in(tmp_path, GRID), root)
    copied = {path.name for path in (root / "cifar10-0-1/1-2/a_ml-alm/member-00").iterdir()}
    assert copied == {"config.json", "metrics.json", "model.pt", "predictions.csv", "history.csv", "roc.png"}


class OnlyValidation(dict[str, Any]):
    """Metrics of a member that can be asked for those of validation, and for nothing else."""

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]

    def __getitem__(self, key: str) -> Any:
        assert key == "validation", f"{key} was read"
        return super().__getitem__(key)

    def items(self) -> Any:
        raise AssertionError("everything was read")

    values = __iter__ = items


@pytest.mark.usefixtures("evaluator")
def test_no_test_metric_is_ever_read_for_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(text: str) -> Any:
        content = plain(text)
        return OnlyValidation(content) if isinstance(content, dict) and "validation" in content else content

    plain = json.loads
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", guarded)
        report = run_experiment(plan_in(tmp_path, GRID), tmp_path / "out")
    assert report.is_complete


@pytest.mark.usefixtures("evaluator")
def test_the_choices_are_the_same_whatever_the_test_metrics_are(tmp_path: Path, trainer: Trainer) -> None:
    found = []
    for number, test in enumerate((POISON, {"auc": 1.0}, {"auc": float("nan")}, None)):
        trainer.test = test
        root = tmp_path / f"out-{number}"
        run_experiment(plan_in(tmp_path, GRID), root)
        found.append({path.relative_to(root): path.read_text() for path in root.rglob("selection.json")})
    assert len(found[0]) == 10
    assert all(choices == found[0] for choices in found)


def test_the_choices_do_depend_on_validation(tmp_path: Path, trainer: Trainer, evaluator: Evaluator) -> None:
    for best in (0.1, 0.5):
        trainer.auc = lambda overrides, best=best: 0.9 - abs(overrides["loss_parameters"].get("margin", 0) - best)
        root = tmp_path / str(best)
        run_experiment(plan_in(tmp_path, GRID), root)
        assert read(root / "cifar10-0-1/1-2/a_ml-alm/selection.json")["parameters"]["margin"] == best


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize("every", [1, 3, 7])
def test_an_experiment_that_is_stopped_again_and_again_ends_like_one_that_is_not(
    tmp_path: Path, trainer: Trainer, every: int
) -> None:
    plan, whole, parts = plan_in(tmp_path, GRID), tmp_path / "whole", tmp_path / "parts"
    run_experiment(plan, whole)
    trainer.trained.clear()
    stops = 0
    while True:
        trainer.stops_after = len(trainer.trained) + every
        try:
            report = run_experiment(plan, parts)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == (OF_GRID - 1) // every
    assert report.is_complete
    assert len(trainer.trained) == OF_GRID  # nothing was trained twice
    assert results(parts) == results(whole)


def test_a_finished_experiment_does_nothing_again(tmp_path: Path, trainer: Trainer, evaluator: Evaluator) -> None:
    plan, root = plan_in(tmp_path, GRID), tmp_path / "out"
    first = run_experiment(plan, root)
    trainer.calls.clear()
    trainer.checked.clear()
    evaluator.calls.clear()
    assert run_experiment(plan, root) == first
    assert (trainer.calls, trainer.checked, evaluator.calls) == ([], [], [])


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize("lost", ["selection.json", "metrics.json", "member-01"])
def test_what_was_lost_in_the_middle_of_a_copy_is_made_again(tmp_path: Path, trainer: Trainer, lost: str) -> None:
    plan, root = plan_in(tmp_path, GRID), tmp_path / "out"
    run_experiment(plan, root)
    before = results(root)
    folder = root / "cifar10-0-1/1-9/a_ml-alm"
    (folder / "selection.json").unlink()  # it is written after all else
    if lost == "member-01":
        shutil.rmtree(folder / lost)
    else:
        (folder / lost).unlink(missing_ok=True)
    trainer.calls.clear()
    run_experiment(plan, root)
    assert results(root) == before
    assert trainer.calls == []


def test_a_baseline_that_is_evaluated_anew_is_compared_anew(tmp_path: Path, evaluator: Evaluator) -> None:
    plan, root = plan_in(tmp_path, ONE_RECIPE), tmp_path / "out"
    run_experiment(plan, root)
    evaluator.calls.clear()
    (root / "cifar10-0-1/1-9/bce-baseline/metrics.json").unlink()
    run_experiment(plan, root)
    assert evaluator.calls == [("bce-baseline", None), ("bce-alm", "bce-baseline")]


def test_a_failed_member_stops_nothing_else_and_is_tried_again(
    tmp_path: Path, trainer: Trainer, evaluator: Evaluator
) -> None:
    plan, root = plan_in(tmp_path, GRID), tmp_path / "out"
    best = "cifar10-0-1/1-2/a_ml-baseline/candidates/margin-0.5/member-01"
    trainer.auc = lambda overrides: 0.9 + 0.01 * overrides["loss_parameters"].get("margin", 0)
    trainer.fails = lambda task: task.output_dir == root / best
    report = run_experiment(plan, root)
    assert report.failures == {best: "the loss must be finite, got nan"}
    assert (report.done, report.is_complete) == (OF_GRID - 1, False)
    folder = root / "cifar10-0-1/1-2"
    assert read(folder / "a_ml-baseline/selection.json")["parameters"] == {"margin": 0.1}
    assert read(folder / "a_ml-alm/selection.json")["parameters"]["margin"] == 0.1

    trainer.fails = lambda task: False
    evaluator.calls.clear()
    report = run_experiment(plan, root)
    assert report.is_complete
    assert read(folder / "a_ml-baseline/selection.json")["parameters"] == {"margin": 0.5}
    assert read(folder / "a_ml-alm/selection.json")["parameters"]["margin"] == 0.5
    assert evaluator.calls == [("a_ml-baseline", None), ("a_ml-alm", "a_ml-baseline")]
    assert "margin-0.5" in (folder / "a_ml-alm/member-00/model.pt").read_text()
    assert read(folder / "a_ml-alm/ensemble.json")["settings"]["loss_parameters"] == {"margin": 0.5}


def test_an_ensemble_of_the_members_that_did_not_fail_is_completed_later(
    tmp_path: Path, trainer: Trainer, evaluator: Evaluator
) -> None:
    plan, root = plan_in(tmp_path, ONE_RECIPE | {"members": 3}), tmp_path / "out"
    trainer.fails = lambda task: task.output_dir == root / "cifar10-0-1/1-2/bce-baseline/member-02"
    run_experiment(plan, root)
    metrics = root / "cifar10-0-1/1-2/bce-baseline/metrics.json"
    assert read(metrics)["members"] == [0, 1]
    trainer.fails = lambda task: False
    evaluator.calls.clear()
    run_experiment(plan, root)
    assert read(metrics)["members"] == [0, 1, 2]
    assert evaluator.calls == [("bce-baseline", None), ("bce-alm", "bce-baseline")]


def test_a_loss_of_which_all_members_fail_is_reported_and_the_others_are_whole(
    tmp_path: Path, trainer: Trainer, evaluator: Evaluator
) -> None:
    trainer.fails = lambda task: task.overrides["loss"] == "a_ml"
    report = run_experiment(plan_in(tmp_path, GRID), tmp_path / "out")
    assert len(report.failures) == 2 * 2 * 2  # its baselines; nothing was chosen to go on with
    assert {Path(name).name for name in report.ensembles} == {"bce-baseline", "bce-alm", "mbauc-baseline"}
    assert ("a_ml-alm", None) not in evaluator.calls


@pytest.mark.usefixtures("evaluator")
def test_an_ensemble_that_cannot_be_evaluated_is_one_line_in_the_report(tmp_path: Path, trainer: Trainer) -> None:
    plan = plan_in(tmp_path, ONE_RECIPE | {"members": 1, "ratios": [2], "losses": {"bce": {}}})
    report = run_experiment(plan, tmp_path / "out")
    assert report.failures["cifar10-0-1/1-2/bce-baseline"].startswith(
        "an ensemble must have at least 2 finished members"
    )
    assert (report.done, report.is_complete) == (2, False)


def test_another_plan_in_the_same_folder_is_refused_before_anything_runs(tmp_path: Path, trainer: Trainer) -> None:
    root = tmp_path / "out"
    trainer.stops_after = 0
    with pytest.raises(KeyboardInterrupt):
        run_experiment(plan_in(tmp_path, GRID), root)
    trainer.calls.clear()
    with pytest.raises(ValueError, match=r"^plan must be the one that the folder was started with, got another seed "):
        run_experiment(plan_in(tmp_path, GRID | {"seed": 1}), root)
    assert trainer.calls == []


@pytest.mark.usefixtures("evaluator")
@pytest.mark.parametrize("content", ["{}", '{"validation": {"auc": NaN}}', '{"validation": {"auc": "high"}}'])
def test_a_result_without_a_validation_auc_is_one_line(tmp_path: Path, trainer: Trainer, content: str) -> None:
    plan, root = plan_in(tmp_path, GRID), tmp_path / "out"
    write(root / "cifar10-0-1/1-2/bce-baseline/member-00/metrics.json", content)
    with pytest.raises(ValueError, match=r"^validation auc must be a number, got .* in .*metrics\.json\. Delete"):
        run_experiment(plan, root)


@pytest.mark.usefixtures("evaluator")
def test_progress_counts_all_members_from_the_start_and_what_was_there(tmp_path: Path, trainer: Trainer) -> None:
    plan, root = plan_in(tmp_path, GRID), tmp_path / "out"
    trainer.stops_after = 5
    with pytest.raises(KeyboardInterrupt):
        run_experiment(plan, root)
    trainer.stops_after = None
    seen: list[Standing] = []
    run_experiment(plan, root, on_progress=seen.append)
    assert (seen[0].done, seen[0].total, seen[0].seconds_left) == (5, OF_GRID, None)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].failed, seen[-1].total) == (OF_GRID, 0, OF_GRID)
    assert seen[-1].seconds_left == 0
