"""Figures of maps against loops, and how states of a network are ordered by them."""

import math

import numpy as np
import pytest
import torch

from prostate_alm.training.lesion_scores import LesionMetrics, detections_of

SHAPE = (4, 1, 8, 8, 4)
IDS = ["a", "b", "c", "d"]
COUNTS = {"a": 1, "b": 2, "c": 0, "d": 0}


def lesions() -> torch.Tensor:
    truth = torch.zeros(SHAPE, dtype=torch.int64)
    truth[0, 0, 1:3, 1:3, 1:3], truth[1, 0, 5:7, 5:7, 0:2], truth[1, 0, 0, 0, 0] = 1, 2, -1
    return truth


def seen(maps: torch.Tensor, *, at_once: int = 4) -> LesionMetrics:
    metrics = LesionMetrics(COUNTS, rim_voxels=0)
    for start in range(0, 4, at_once):
        rows = slice(start, start + at_once)
        labels = (lesions()[rows] > 0).flatten(1).any(1).long()
        metrics.update((maps[rows], {"label": labels, "sample_id": IDS[rows], "lesions": lesions()[rows]}))
    return metrics


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_the_logit_of_a_case_is_the_soft_maximum_of_its_map() -> None:
    maps = noise(0)
    for logit, one in zip(seen(maps, at_once=3).logits, maps, strict=True):
        expected = 0.5 * math.log(sum(math.exp(z / 0.5) for z in one.flatten().tolist()))
        assert logit == pytest.approx(expected)


def test_lesion_auc_is_the_share_of_background_voxels_below() -> None:
    maps, truth = noise(1), lesions()
    outside = maps[truth == 0].tolist()
    shares = []
    for row, number in ((0, 1), (1, 2)):
        inside = maps[row][truth[row] == number].tolist()
        score = 0.5 * math.log(sum(math.exp(z / 0.5) for z in inside) / len(inside))
        shares.append(sum(score > z for z in outside) / len(outside))
    assert seen(maps, at_once=1).compute()["val_lesion_auc"] == pytest.approx(sum(shares) / 2)


def test_a_lesion_that_the_crop_cut_counts_as_missed() -> None:
    perfect = torch.where(lesions() > 0, 5.0, -5.0)
    figures = seen(perfect).lesion_figures()
    assert figures["lesions"] == 3
    assert figures["lesion_auc"] == 1
    assert not any(name.startswith("lesion_fp_per_case") for name in figures)  # 2 of 3 were found
    found = detections_of(perfect[1, 0].numpy(), lesions()[1, 0].numpy(), count=2).found
    assert sorted(found) == [-np.inf, 5.0]


def test_false_positives_are_counted_at_the_lesion_that_scores_lowest() -> None:
    maps = torch.full(SHAPE, -9.0)
    maps[0, 0, 1, 1, 1] = 1.0
    maps[2, 0, 4, 4, 2], maps[3, 0, 4, 4, 2], maps[3, 0, 1, 1, 0] = 0.5, 2.0, 3.0
    metrics = LesionMetrics({"a": 1, "b": 0, "c": 0, "d": 0}, rim_voxels=0)
    truth = lesions()
    truth[1] = 0
    labels = torch.tensor([1, 0, 0, 0])
    metrics.update((maps, {"label": labels, "sample_id": IDS, "lesions": truth}))
    assert metrics.lesion_figures()["lesion_fp_per_case_at_sens100"] == 2 / 4


def test_states_are_ordered_by_the_case_auc_and_ties_by_the_lesions() -> None:
    """With 2 positives and 2 negatives the case AUC moves in steps of 1/8."""
    right = torch.where(lesions() > 0, 5.0, -5.0)
    beside = torch.full(SHAPE, -5.0)  # the right cases, for the wrong voxels
    beside[:2, 0, 4, 1, 3] = 5.0
    states = {"right": right, "beside": beside, "noise": noise(2)}
    figures = {name: seen(maps).compute() for name, maps in states.items()}
    assert figures["right"]["val_auc"] == figures["beside"]["val_auc"] == 1
    assert figures["right"]["val_score"] > figures["beside"]["val_score"] > figures["right"]["val_score"] - 1 / 8
    assert figures["noise"]["val_auc"] < 1
    assert figures["noise"]["val_score"] < figures["beside"]["val_score"]


def test_cases_without_any_lesion_have_no_figures_of_lesions() -> None:
    metrics = LesionMetrics({"c": 0, "d": 0})
    metrics.update((noise(0)[2:], {"label": torch.zeros(2), "sample_id": IDS[2:], "lesions": lesions()[2:]}))
    assert metrics.lesion_figures() == {}
    assert metrics.compute() == {}


def test_where_the_crops_show_no_whole_lesion_the_cases_are_ranked_all_the_same() -> None:
    metrics = LesionMetrics(COUNTS)
    cut = torch.where(lesions() > 0, -1, lesions())
    metrics.update((noise(3), {"label": torch.tensor([1, 1, 0, 0]), "sample_id": IDS, "lesions": cut}))
    figures = metrics.compute()
    assert "val_score" in figures
    assert "val_lesion_auc" not in figures
    assert metrics.lesion_figures()["lesion_ap"] == 0
