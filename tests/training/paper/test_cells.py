"""Finished cells: what comes back from the file, and what it refuses."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from index.distances import PrecisionRecall
from tests import forking
from training.config import configure
from training.paper import cells as module
from training.paper.cells import Cell, Cells
from training.paper.tables import TableError

CELL = Cell("hpca_fh", "1%", 0, "0123456789ab", "a CPU, 2 threads", {"top1": 0.4, "map": 0.2})


@pytest.fixture
def cells(tmp_path):
    return Cells(tmp_path, "cifar10-conv6")


def test_what_was_added_comes_back_in_order(cells):
    assert cells.read() == []
    second = dataclasses.replace(CELL, seed=1, figures={"top1": 0.5, "map": 0.25, "top5": 0.9})
    cells.add(CELL)
    cells.add(second)
    assert cells.read() == [CELL, second]
    assert cells.path.read_text().splitlines() == [
        "method,labels,seed,config,machine,top1,map,top5",
        'hpca_fh,1%,0,0123456789ab,"a CPU, 2 threads",0.4,0.2,',
        'hpca_fh,1%,1,0123456789ab,"a CPU, 2 threads",0.5,0.25,0.9',
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch,loss\n1,2\n", "the columns should begin with method,labels,seed"),
        (
            "method,labels,seed,config,machine,top1\nhpca_fh,1%,zero,c,m,0.4\n",
            "line 2: .*zero.*mend or remove",
        ),
        ("method,labels,seed,config,machine,top1\nhpca_fh,1%,0\n", "line 2: .*as many values as"),
        ("method,labels,seed,config,machine,top1\nhpca_fh,1%,0,c,m,much\n", "line 2: .*much"),
        ("method,labels,seed,config,machine,top1\nhpca_fh,1%,0,c,m,0.1,7\n", "line 2: .*as many values as"),
        ("method,labels,seed,config,machine,top1\nhpca_fh,1%,0,c,m\udcff,0.1\n", "line .*decode"),
        ("method,labels,seed,config,machine,top1\nhpca_fh,half,0,c,m,0.1\n", "line 2: labels 'half' are no"),
        ("method,labels,seed,config,machine,top1\nhpca_fh,101%,0,c,m,0.1\n", "line 2: labels '101%' are"),
        (
            "method,labels,seed,config,machine,top1\nhpca_fh,1%,0,c,m,0.1\nhpca_fh,1%,0,d,n,0.1\n",
            "line 3: an earlier line has the same experiment.*mend or remove",
        ),
    ],
)
def test_a_file_that_is_off_is_named_and_left_as_it_is(cells, text, says):
    cells.path.parent.mkdir(parents=True)
    content = text.encode(errors="surrogateescape")
    cells.path.write_bytes(content)
    with pytest.raises(TableError, match=f"cifar10-conv6.csv.*{says}"):
        cells.add(CELL)
    assert cells.path.read_bytes() == content


def test_seed_labels_and_place_do_not_make_another_configuration(cells):
    chosen = {"dataset": "cifar10", "data": "here", "precision": "fp32"}
    name = cells.remember(configure(chosen))
    same = {"seed": 3, "labels": "5%", "data": "there", "device": "cpu"}
    assert cells.config_id(configure(chosen | same)) == name
    others = [{"precision": "bf16"}, {"epochs": 3}, {"rule": "none"}, {"finetune_lr": 2e-3}]
    assert len({name, *(cells.config_id(configure(chosen | other)) for other in others)}) == 5
    assert [path.stem for path in cells.configs.iterdir()] == [name]  # only what is remembered is written
    assert json.loads((cells.configs / f"{name}.json").read_text())["finetune_lr"] == 1e-3


def test_a_configuration_from_before_a_setting_existed_had_its_default(cells, monkeypatch):
    config = configure({"dataset": "cifar10", "data": "here", "precision": "fp32"})
    name = cells.remember(config)
    path = cells.configs / f"{name}.json"
    written = json.loads(path.read_text())
    del written["beta"]
    path.write_text(json.dumps(written))
    assert cells.config_id(config) == name
    assert cells.config_id(dataclasses.replace(config, beta=0.7)) != name
    # A default that changes later does not change what was written down.
    monkeypatch.setitem(module.DEFAULTS, "momentum", 0.5)
    assert cells.config_id(dataclasses.replace(config, momentum=0.5)) != name
    assert cells.config_id(config) == name


def configured(**changes):
    return configure({"dataset": "cifar10", "data": "here", "precision": "fp32"} | changes)


def test_cells_that_do_not_belong_into_one_table_are_refused(cells):
    ours, base = configured(), configured(rule="none", finetune_lr=1e-2, epochs=3)
    cells.add(dataclasses.replace(CELL, config=cells.remember(ours)))
    cells.check({"hpca_fh": ours})
    cells.check({"hpca_fh": dataclasses.replace(ours, seed=4, labels="5%", data="there"), "none": base})
    cells.check({"none": base})  # of methods what is theirs may differ
    with pytest.raises(TableError, match=r"cells of hpca_fh .*\(finetune_lr 0.001 there, 0.01 here\).*--out"):
        cells.check({"hpca_fh": dataclasses.replace(ours, finetune_lr=1e-2)})
    with pytest.raises(TableError, match=r"cells of hpca_fh .*\(bits 256 there, 64 here\)"):
        cells.check({"none": dataclasses.replace(base, bits=64)})


def test_one_configuration_may_have_two_names(cells):
    """As where the files of two machines were put together."""
    config = configured()
    cells.add(dataclasses.replace(CELL, config=cells.remember(config)))
    written = json.loads(next(cells.configs.iterdir()).read_text())
    del written["beta"]
    (cells.configs / "000000000000.json").write_text(json.dumps(written))
    assert cells.config_id(config) == "000000000000"
    cells.check({"hpca_fh": config})


def test_what_a_configuration_is_must_be_known(cells):
    cells.add(CELL)
    with pytest.raises(TableError, match=r"0123456789ab\.json is missing"):
        cells.check({"hpca_fh": configured()})
    for broken in (b"{", b"[]", b"\xff"):
        (cells.configs).mkdir(exist_ok=True)
        (cells.configs / "0123456789ab.json").write_bytes(broken)
        with pytest.raises(TableError, match=r"0123456789ab\.json: .*mend it"):
            cells.check({"hpca_fh": configured()})


def test_cells_of_other_images_are_refused(cells):
    def cell(seed, **counts):
        return dataclasses.replace(CELL, seed=seed, figures=CELL.figures | counts)

    cells.add(cell(0))  # from before they were counted
    cells.add(cell(1, queries=10, database=40))
    cells.add(cell(2, queries=10, database=40))
    with pytest.raises(TableError, match="its cells have 40 database, this run 39: other images"):
        cells.add(cell(3, queries=10, database=39))
    assert [each.seed for each in cells.read()] == [0, 1, 2]
    cells.check_images({"queries": 10, "database": 40})
    with pytest.raises(TableError, match="its cells have 10 queries, this run 11: other images"):
        cells.check_images({"queries": 11, "database": 40})


def test_counts_keep_all_their_digits(cells):
    """As many as ImageNet has; the next cell is compared with them."""
    for seed in range(2):
        cells.add(dataclasses.replace(CELL, seed=seed, figures={"database": 1_200_322, "map": 0.12345678}))
    assert [cell.figures for cell in cells.read()] == [{"database": 1_200_322, "map": 0.123457}] * 2


def test_an_experiment_is_written_once(cells):
    cells.add(CELL)
    cells.add(dataclasses.replace(CELL, config="ba9876543210", figures={"top1": 0.9}))
    assert cells.read() == [CELL]


@pytest.mark.process
def test_one_process_at_a_time_computes_a_part(cells):
    code = (
        "import sys; from pathlib import Path; from training.paper.cells import Cells\n"
        "with Cells(Path(sys.argv[1]), 'cifar10-conv6').claimed(['hpca_fh', 'none']):\n"
        "    print('claimed', flush=True); sys.stdin.read()"
    )
    other = forking.Popen(
        [sys.executable, "-c", code, str(cells.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(TableError, match="computing cells of none;"), cells.claimed(["swta_fh", "none"]):
            pass
        with cells.claimed(["swta_fh"]):  # which that one does not compute
            cells.add(CELL)
            cells.add(CELL)
        assert len(cells.read()) == 1
    finally:
        other.kill()
        other.communicate()
    with cells.claimed(["none"]):  # whoever died holds nothing
        pass


def test_the_curve_is_written_beside(cells):
    radius = np.arange(3)
    cells.add_curve(CELL, PrecisionRecall(radius, np.array([0, 0.5, 0.25]), np.array([0, 0.1, 1.0])))
    written = np.loadtxt(cells.curve("hpca_fh", "1%"), delimiter=",", skiprows=1)
    assert written.tolist() == [[0, 0, 0], [1, 0.5, 0.1], [2, 0.25, 1]]
