import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from prostate_alm.cli import main
from prostate_alm.experiments import figure, run
from prostate_alm.experiments.effects import MEAN, Effect
from prostate_alm.experiments.paper_tables import RATE_COLUMNS, paper_effects
from prostate_alm.experiments.plan import Plan, replicate_of, start_or_continue
from prostate_alm.experiments.replicates import find_gaps, pooled_effects, read_replicates
from prostate_alm.experiments.report import write_report
from prostate_alm.experiments.run import ExperimentReport
from prostate_alm.experiments.standing import Standing
from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.metrics import Floats, auc, fpr_at_tpr
from prostate_alm.training.results import summarise, summarise_extra

SHIPPED = Path(__file__).parents[2] / "bundles" / "cifar10" / "experiments" / "default.json"
PLAN = json.loads(SHIPPED.read_text(encoding="utf-8")) | {"pairs": [[0, 1]], "ratios": [9], "members": 2}
LOSSES = ("bce", "a_ml", "msfe")
SMALL = PLAN | {"losses": {loss: PLAN["losses"][loss] for loss in LOSSES}, "baseline_only": []}
NEGATIVES, POSITIVES, AT_RATIO = 60, 50, 20
TPR_LEVELS = (1.0, 0.95, 0.9)
METRICS = (auc, *(lambda truth, scores, level=level: fpr_at_tpr(truth, scores, level) for level in TPR_LEVELS))

pytestmark = pytest.mark.filterwarnings("ignore::prostate_alm.method.metrics.TooFewPositivesWarning")

Score = Callable[[int, str, str], Floats]
"""Scores of an ensemble by seed, loss and training: negatives, positives of `test`, and the others."""


def truth() -> Floats:
    return np.concatenate([np.zeros(NEGATIVES), np.ones(POSITIVES)])


def by_chance(seed: int, loss: str, training: str) -> Floats:
    random = np.random.default_rng([seed, *map(ord, loss + training)])
    return np.round(random.normal(size=NEGATIVES + POSITIVES) + truth(), 1)  # rounded, so that there are ties


def same_arms(seed: int, loss: str, training: str) -> Floats:
    return by_chance(seed, loss, "both")


def write_ensemble(folder: Path, scores: Floats, *, members: int = 2, samples: str = "test") -> None:
    folder.mkdir(parents=True)
    splits = ["test"] * (NEGATIVES + AT_RATIO) + ["test_extra"] * (POSITIVES - AT_RATIO)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample_id", "split", "label", "logit", "logit_std"))
        for number, (split, label, score) in enumerate(zip(splits, truth(), scores, strict=True)):
            writer.writerow((f"{samples}-{number}", split, int(label), repr(float(score)), 0.5))
    (folder / "metrics.json").write_text(json.dumps({"members": list(range(members))}), encoding="utf-8")


def experiment(
    root: Path, seed: int, score: Score, *, without: Sequence[str] = (), plan: Mapping[str, Any] = SMALL
) -> Path:
    root.parent.mkdir(parents=True, exist_ok=True)
    (root.parent / "train.json").write_text("{}", encoding="utf-8")
    content = Plan.model_validate({**plan, "bundle": str(root.parent / "train.json"), "seed": seed})
    start_or_continue(content, root)
    for ratio in content.ratios:
        for loss in content.losses:
            for training in ("baseline", "alm") if content.has_alm(loss) else ("baseline",):
                if f"{loss}-{training}" not in without:
                    folder = root / "cifar10-0-1" / f"1-{ratio}" / f"{loss}-{training}"
                    write_ensemble(folder, score(seed, loss, training))
    return root


def three(folder: Path, score: Score) -> list[Path]:
    return [experiment(folder / f"out-{seed}", seed, score) for seed in range(3)]


Effects = dict[tuple[str, str, str], Effect]


def effects_of(roots: Sequence[Path], **options: Any) -> Effects:
    """Return the effects by test set, loss and column."""
    found = pooled_effects(read_replicates(roots), **{"resamples": 50} | options)
    return {(one.split, one.loss, one.column): one for one in found}


def naive(seed: int, loss: str) -> dict[str, dict[str, float]]:
    """Return the differences of one replicate by the functions that make an ensemble's own metrics."""
    sides = []
    for training in ("baseline", "alm"):
        scores, labels = by_chance(seed, loss, training), truth()
        at_ratio, extra = scores[: NEGATIVES + AT_RATIO], scores[NEGATIVES + AT_RATIO :]
        own = {"test": summarise(labels[: len(at_ratio)], at_ratio)}
        sides.append(own | summarise_extra(labels[: len(at_ratio)], at_ratio, extra_logits=extra))
    before, after = sides
    names = [column.removeprefix("test_") for column in RATE_COLUMNS]
    return {
        split: {
            column: 100 * (after[split][name] - before[split][name])
            for column, name in zip(RATE_COLUMNS, names, strict=True)
        }
        for split in before
    }


def test_the_effects_are_the_means_of_what_each_ensembles_metrics_say(tmp_path: Path) -> None:
    found = effects_of(three(tmp_path, by_chance))
    differences = {loss: [naive(seed, loss) for seed in range(3)] for loss in LOSSES}
    for (split, loss, column), one in found.items():
        each = {name: [own[split][column] for own in some] for name, some in differences.items()}
        cells = each[loss] if loss != MEAN else [value for values in each.values() for value in values]
        assert one.effect == pytest.approx(fmean(cells), abs=1e-10)
        assert (one.replicates, one.cells, one.rises) == (3, len(cells), sum(value > 0 for value in cells))
    assert len(found) == 3 * 4 * 4


def test_arms_that_are_the_same_have_no_effect_and_no_interval(tmp_path: Path) -> None:
    effects = effects_of(three(tmp_path, same_arms))
    assert effects
    for one in effects.values():
        assert (one.effect, one.low, one.high, one.rises) == (0, 0, 0, 0)


def test_scores_that_are_shifted_change_nothing(tmp_path: Path) -> None:
    def whole(seed: int, loss: str, training: str) -> Floats:
        return np.round(10 * by_chance(seed, loss, training))  # whole numbers: a shift rounds nothing

    def shifted(seed: int, loss: str, training: str) -> Floats:
        return whole(seed, loss, training) + {"baseline": 1000.0, "alm": -7.0}[training] + seed

    plain, moved = (effects_of(three(tmp_path / name, score)) for name, score in (("a", whole), ("b", shifted)))
    assert plain == moved


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    def planted(seed: int, loss: str, training: str) -> Floats:
        return same_arms(seed, loss, training) + (0.7 * truth() if training == "alm" else 0)

    found = effects_of(three(tmp_path, planted))
    for split in ("test", "test_all_positives", "test_draws"):
        gain = found[split, MEAN, "test_auc"]
        assert gain.low is not None
        assert gain.low > 2
        assert (gain.rises, gain.cells) == (9, 9)
        fall = found[split, MEAN, "fpr_at_tpr90"]
        assert fall.high is not None
        assert fall.high < 0


def test_the_interval_of_one_replicate_is_that_of_the_bootstrap_over_images(tmp_path: Path) -> None:
    found = effects_of([experiment(tmp_path / "out", 0, by_chance)], resamples=2000)
    both = np.stack([by_chance(0, "bce", training) for training in ("alm", "baseline")], axis=1)
    for column, metric in zip(RATE_COLUMNS, METRICS, strict=True):
        one = found["test_all_positives", "bce", column]
        other = bootstrap_interval(
            truth(), both, metric=lambda y, s, metric=metric: metric(y, s[:, 0]) - metric(y, s[:, 1]), seed=1
        )
        width = 100 * (other.high - other.low)
        assert one.effect == pytest.approx(100 * other.estimate)
        assert [one.low, one.high] == pytest.approx([100 * other.low, 100 * other.high], abs=0.1 * width)


def test_replicates_that_disagree_widen_the_interval(tmp_path: Path) -> None:
    def disagreeing(seed: int, loss: str, training: str) -> Floats:
        return same_arms(seed, loss, training) + ((seed - 1) * truth() if training == "alm" else 0)

    found = effects_of(three(tmp_path, disagreeing), resamples=300)
    own = [effects_of([tmp_path / f"out-{seed}"])["test_all_positives", MEAN, "test_auc"] for seed in (0, 2)]
    pooled = found["test_all_positives", MEAN, "test_auc"]
    assert None not in (pooled.low, pooled.high, own[0].effect, own[1].effect)
    assert pooled.low < own[0].effect + 3 < 0 < own[1].effect - 3 < pooled.high  # type: ignore[operator]


def test_the_same_seed_gives_the_same_intervals_and_the_order_of_the_folders_does_not_matter(tmp_path: Path) -> None:
    roots = three(tmp_path, by_chance)
    assert effects_of(roots) == effects_of(list(reversed(roots)))
    assert effects_of(roots) != effects_of(roots, seed=1)


def test_a_loss_that_a_replicate_lacks_is_left_out_of_that_replicates_mean_and_named(tmp_path: Path) -> None:
    roots = [
        experiment(tmp_path / "out-0", 0, by_chance, without=["bce-alm"]),
        experiment(tmp_path / "out-1", 1, by_chance),
        experiment(tmp_path / "out-2", 2, by_chance, without=[f"{loss}-baseline" for loss in LOSSES]),
    ]
    (tmp_path / "out-1/cifar10-0-1/1-9/msfe-alm/metrics.json").write_text('{"members": [1]}', encoding="utf-8")
    found = effects_of(roots)
    values = {(seed, loss): naive(seed, loss)["test"]["test_auc"] for seed in (0, 1) for loss in LOSSES}
    of_0, of_1 = fmean([values[0, "a_ml"], values[0, "msfe"]]), fmean(values[1, loss] for loss in LOSSES)
    mean, bce = found["test", MEAN, "test_auc"], found["test", "bce", "test_auc"]
    assert mean.effect == pytest.approx(fmean([of_0, of_1]))
    assert (mean.losses, mean.replicates, mean.cells) == (3, 2, 5)
    assert (bce.effect, bce.replicates) == (pytest.approx(values[1, "bce"]), 1)
    gaps = [(gap.seed, gap.cell.loss, gap.arm, gap.is_absent, gap.reason) for gap in find_gaps(read_replicates(roots))]
    assert gaps == [
        (0, "bce", "alm", True, "not trained yet"),
        (1, "msfe", "alm", False, "only 1 of 2 members"),
        *[(2, loss, "baseline", True, "not trained yet") for loss in LOSSES],
    ]
    write_report(roots, tmp_path / "report", resamples=20)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| 0 | Classes 0 and 1 | 1:9 | alm | not trained yet | left out | BCE |" in text
    assert "| 1 | Classes 0 and 1 | 1:9 | alm | only 1 of 2 members | used | MSFE |" in text
    assert "| 2 | Classes 0 and 1 | 1:9 | baseline | not trained yet | left out | BCE, A-ML, MSFE |" in text


def test_the_report_holds_the_pooled_means_beside_the_papers_and_every_figure(tmp_path: Path) -> None:
    roots = three(tmp_path, by_chance)
    files = write_report(roots, tmp_path / "report", resamples=50)
    assert [path.name for path in files] == ["effect_pooled.csv", "effect-pooled-0-1.png", "report.md"]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    with files[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 4 * 4
    names = {"bce": "BCE", "a_ml": "A-ML", "msfe": "MSFE", MEAN: "mean"}
    for (split, loss, column), one in effects_of(roots).items():
        place = ("0-1", "1:9", split, names[loss], column)
        keys = ("pair", "ratio", "test_set", "loss", "metric")
        row = next(row for row in rows if tuple(row[key] for key in keys) == place)
        shown = [float(row[key]) for key in ("difference", "low", "high", "paper")]
        assert shown == pytest.approx([one.effect, one.low, one.high, one.paper], rel=1e-5)
        assert (row["replicates"], row["cells"]) == ("3", "9" if loss == MEAN else "3")
    papers = paper_effects("table2", 9, "test_auc")
    mean = next(row for row in rows if (row["test_set"], row["loss"], row["metric"]) == ("test", "mean", "test_auc"))
    assert float(mean["paper"]) == pytest.approx(fmean(papers[loss] for loss in LOSSES), rel=1e-5)
    assert float(mean["paper_all"]) == pytest.approx(1.62, abs=0.0055)
    text = files[2].read_text(encoding="utf-8")
    assert text.index("## Mean effect of ALM over the losses") < text.index("## Effect of ALM for each loss")
    assert text.index("## Effect of ALM for each loss") < text.index("## What is missing")
    assert f"| Classes 0 and 1 | test set at the class ratio | 1:9 | 3 | 3 | {mean['rises']} of 9 |" in text
    assert "Nothing: every cell of every replicate rests on all members." in text


def test_several_ratios_stand_below_one_heading_for_each_test_set(tmp_path: Path) -> None:
    roots = [experiment(tmp_path / f"out-{s}", s, by_chance, plan=SMALL | {"ratios": [19, 2]}) for s in range(2)]
    write_report(roots, tmp_path / "report", resamples=5)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert len(headings) == len(set(headings)) == 3
    assert text.index("| 1:2 | **mean of 3** |") < text.index("| 1:19 | **mean of 3** |")


def test_a_report_before_the_first_result_names_every_cell_as_missing(tmp_path: Path) -> None:
    nothing = [f"{loss}-{training}" for loss in PLAN["losses"] for training in ("baseline", "alm")]
    roots = [experiment(tmp_path / f"out-{seed}", seed, by_chance, without=nothing, plan=PLAN) for seed in range(2)]
    gaps = find_gaps(read_replicates(roots))
    assert len(gaps) == 2 * 8 * 2  # not the baseline that has no counterpart
    assert [path.name for path in write_report(roots, tmp_path / "report")] == ["effect_pooled.csv", "report.md"]
    with (tmp_path / "report" / "effect_pooled.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["difference"], row["replicates"]) for row in rows} == {("", "0")}
    assert "| 1 | Classes 0 and 1 | 1:9 | alm | not trained yet | left out | BCE, S-ML," in (
        tmp_path / "report" / "report.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 5}, r"got another members \(5, not 2\) in .*plan\.json than in .*plan\.json\. Report them one by"),
        ({"settings": {"alm_epochs": 3}}, r"got another settings \(\{'alm_epochs': 3\}, not \{\}\) in"),
        ({"name": "other"}, r"got another name \('other', not 'default'\) in"),
    ],
)
def test_experiments_that_differ_in_more_than_their_seed_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    roots = [
        experiment(tmp_path / "a", 0, by_chance),
        experiment(tmp_path / "b", 1, by_chance, plan=SMALL | changes),
    ]
    with pytest.raises(ValueError, match=r"^replicates must be of plans that differ in their seed only, " + message):
        read_replicates(roots)


def test_a_recipe_that_was_changed_between_replicates_is_refused(tmp_path: Path) -> None:
    roots = [experiment(tmp_path / name / "out", seed, by_chance) for seed, name in enumerate(("a", "b"))]
    changed = json.loads((roots[1] / "plan.json").read_text(encoding="utf-8")) | {"bundle_sha256": "0"}
    (roots[1] / "plan.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=r"got another bundle_sha256 "):
        read_replicates(roots)


def test_the_same_replicate_twice_is_refused(tmp_path: Path) -> None:
    root = experiment(tmp_path / "out", 4, by_chance)
    with pytest.raises(ValueError, match=r"^replicates must have different seeds, got 4 in .*out and in .*out\. Give"):
        read_replicates([root, root])


def test_a_folder_that_is_no_experiment_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder must be that of an experiment, got no plan\.json in"):
        read_replicates([experiment(tmp_path / "out", 0, by_chance), tmp_path])


def test_ensembles_of_other_test_images_are_refused(tmp_path: Path) -> None:
    roots = [experiment(tmp_path / "a", 0, by_chance), experiment(tmp_path / "b", 1, by_chance, without=["bce-alm"])]
    write_ensemble(roots[1] / "cifar10-0-1/1-9/bce-alm", by_chance(1, "bce", "alm"), samples="other")
    with pytest.raises(
        ValueError, match=r"^replicates must have the same test samples, got others in .*bce-alm.* than"
    ):
        effects_of(roots)


def test_no_resamples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^resamples must be at least 1, got 0 in"):
        effects_of([experiment(tmp_path / "out", 0, by_chance)], resamples=0)


def test_the_command_reports_one_folder_as_before_and_several_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figure, "draw_pooled_effects", lambda path, effects, title: None)
    a, b = (experiment(tmp_path / f"out-{seed}", seed, by_chance) for seed in range(2))
    assert main(["experiment", "report", str(a), "--json"]) == 0
    assert str(a / "report" / "table2.csv") in json.loads(capsys.readouterr().out)
    assert main(["experiment", "report", str(a), str(b), "--json"]) == 0
    expected = ["effect_pooled.csv", "effect-pooled-0-1.png", "report.md"]
    assert json.loads(capsys.readouterr().out) == [str(a / "report-pooled" / name) for name in expected]
    assert main(["experiment", "report", str(a), str(b), "--output", str(tmp_path / "there")]) == 0
    assert (tmp_path / "there" / "report.md").is_file()
    capsys.readouterr()
    assert main(["experiment", "report", str(a), str(a)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: replicates must have different seeds, got 0 in")


class Runs:
    """Stands for `run_experiment`; notes the plan and does what it does first."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def __call__(self, plan: Plan, root: Path, **options: Any) -> ExperimentReport:
        start_or_continue(plan, root)
        self.seen.append((plan.seed, root.as_posix()))
        options["on_progress"](Standing(0, 0, 0, None))
        return ExperimentReport(0)


@pytest.mark.parametrize(
    ("arguments", "seed", "root"),
    [
        ([], 0, "outputs/default"),
        (["--seed", "2"], 2, "outputs/default-seed2"),
        (["--seed", "0"], 0, "outputs/default-seed0"),
        (["--seed", "2", "--output", "there"], 2, "there"),
    ],
)
def test_a_seed_given_to_a_run_is_the_plans_and_names_its_folder(
    arguments: list[str], seed: int, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Runs()
    monkeypatch.setattr(run, "run_experiment", runs)
    assert main(["experiment", "run", str(SHIPPED), *arguments]) == 0
    assert runs.seen == [(seed, root)]
    record = json.loads((tmp_path / root / "plan.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["name"]) == (seed, "default")


def test_a_negative_seed_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan.model_validate(PLAN)
    assert replicate_of(plan, seed=3) == plan.model_copy(update={"seed": 3})
    assert main(["experiment", "run", str(SHIPPED), "--seed", "-1"]) == 2
    expected = "error: seed must be at least 0, got -1 in the replicate of default. Give another one.\n"
    assert capsys.readouterr().err == expected


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; import prostate_alm.experiments.report; "
        "sys.exit(', '.join({'torch', 'monai', 'matplotlib', 'mlflow'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
