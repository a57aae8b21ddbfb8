"""What the paper's tables cost to train: counted anew, and the committed file against itself."""

import json
import pathlib

import pytest

from acdbit_keras import schemes
from acdbit_keras.studies import training_cost
from acdbit_keras.studies.experiments import paper

COMMITTED = json.loads((pathlib.Path(__file__).resolve().parents[2] / "results" / "training_cost.json").read_text())


@pytest.fixture
def rows(monkeypatch):
    """The trainings, whose images take one operation each."""
    monkeypatch.setattr(training_cost, "flops_per_image", lambda *_: 1)
    return training_cost.trainings()


def test_the_committed_operations_are_those_of_the_networks():
    preset = COMMITTED["measured"]["preset"]
    for scheme in ("float32", "acd_bit"):
        assert training_cost.flops_per_image(preset, scheme) == COMMITTED["flops_per_image"][scheme]
    # DeiT-S is said to have 4.6e9 multiply-adds.
    assert COMMITTED["flops_per_image"]["float32"] == pytest.approx(6 * 4.6e9, rel=0.01)


def test_two_blocks_say_what_three_cost():
    counted = training_cost._counted("vit_small_patch8_64", "acd_bit", 3)
    assert training_cost._macs("vit_small_patch8_64", "acd_bit", 3) == counted


def test_every_row_of_the_papers_tables_is_trained_once(rows):
    trained = [(row.table, row.dataset) for row in rows]
    assert [(row["table"], row["dataset"], row["scheme"], row["images"]) for row in COMMITTED["trainings"]] == [
        (row.table, row.dataset, row.scheme, row.images) for row in rows
    ]
    assert all(trained.count(("comparison", dataset)) == 11 for dataset in ("cifar10", "cifar100", "imagenet2012"))
    # The first row of the ablation and its last are BinaryViT and ACD-BiT of the comparison, but on Tiny-ImageNet.
    assert trained.count(("ablation", "cifar10")) == 2
    assert trained.count(("ablation", "tiny_imagenet")) == 5
    assert trained.count(("sweep", "cifar10")) == len(paper.SWEEP) - 1


def test_hours_are_operations_over_the_share_of_an_accelerators_speed():
    timed, speeds = COMMITTED["measured"]["schemes"], COMMITTED["assumed_flops_per_second"]
    assert set(timed) == {name for name in paper.COMPARISON if not schemes.get(name).post_training}
    for row in timed.values():
        assert row["share"] == pytest.approx(row["flops"] / row["seconds"] / COMMITTED["measured"]["matmul_flops_per_second"])
    for row in COMMITTED["trainings"]:
        for device, speed in speeds.items():
            if row["images"]:
                assert row["hours"][device] == pytest.approx(row["flops"] / (speed * timed[row["scheme"]]["share"]) / 3600)
            else:
                assert row["hours"][device] == 0
    for device in speeds:
        summed = sum(table["hours"][device] for tables in COMMITTED["tables"].values() for table in tables.values())
        assert summed == pytest.approx(sum(row["hours"][device] for row in COMMITTED["trainings"]))
