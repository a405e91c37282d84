"""Learning from labels while the service answers, in a process of its own, over real HTTP."""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.ledger import LedgerFile
from index.locking import locked
from index.verify import faults
from service.command import main
from service.core import jobs
from tests import forking
from tests.samples import command, environment, free_port, wait_until_ready
from tests.service.reloading import add, answer, png, reload, served
from tests.training.narrow import widths_are_narrow
from tests.training.test_label import build, draw_pictures, truth

# What is noted of jobs, and by which services take turns.
NOTED = {".mine.jobs.json", ".mine.jobs.lock", ".mine.jobs.place"}
pytestmark = [pytest.mark.long, pytest.mark.process]

# What the real child is, but for narrow networks and few steps; a third of the labels is held out.
QUICK = """
import pytest, sys
from tests.training.narrow import widths_are_narrow
from training import label
from training.coding import learning
from training.learning import division
patch = pytest.MonkeyPatch()
widths_are_narrow(patch.setitem, patch.setattr)
learning.LEAST_STEPS, division.SHARE = 60, 3
label.main()
"""
# A child that learns nothing: what it makes is a copy.
COPYING = """
import json, os, sys
from pathlib import Path
from index.backup import copy_artifact
copy_artifact(Path(sys.argv[1]), Path(sys.argv[3]), os.environ["HEBBSEARCH_CATALOGUE"] or None)
none = dict.fromkeys(["before", "after", "network_labels"])
print(json.dumps({"artifact": sys.argv[3], "learned_from": 1, "held_out": 0, **none}))
"""
ALONE = COPYING.replace("**none}", "'only_class': 'owl', **none}")  # from labels of one class
# A child that never gets anything done, and ends when it is told to.
WAITING = """
import json, sys
print("a library's own words")
print(json.dumps({"progress": "waiting"}), flush=True)
sys.stdin.read()
"""
FAILING = (
    "import sys; print('a traceback\\nhebbsearch label: it cannot be done', file=sys.stderr); sys.exit(2)"
)


def child(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", script))


def built_of_stripes(folder: Path) -> Path:
    """An index of 240 pictures without labels."""
    (folder / "pictures").mkdir()
    return build(draw_pictures(folder / "pictures"), folder / "mine")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_of_stripes(tmp_path_factory.mktemp("once"))


@pytest.fixture
def mine(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    widths_are_narrow(monkeypatch.setitem, monkeypatch.setattr)
    return shutil.copytree(once, tmp_path / "artifacts" / "mine")


@pytest.fixture
def http(mine: Path) -> Iterator[httpx.Client]:
    with served(mine) as client:
        yield client


def learn(http: httpx.Client) -> dict[str, Any]:
    response = http.post("/labels/learn")
    job: dict[str, Any] = answer(response, 202)
    assert response.headers["location"] == f"/jobs/{job['id']}"
    return job


def until(http: httpx.Client, number: int, status: str, step: str = "") -> dict[str, Any]:
    """The job, once it is so."""
    while True:
        job: dict[str, Any] = answer(http.get(f"/jobs/{number}"))
        if job["status"] == status and step in job["step"]:
            return job
        assert job["status"] == "running", job["error"]
        time.sleep(0.05)


def predictions(http: httpx.Client, item_id: int) -> list[tuple[str | None, float | None]]:
    """What is predicted for an image, by every way to ask with one."""
    image, found = http.get(f"/images/{item_id}/original").content, list[dict[str, Any]]()
    for by in ("content", "picture"):
        found.append(answer(http.get(f"/images/{item_id}/similar", params={"by": by})))
        found.append(answer(http.post("/search", content=image, params={"by": by})))
    (one,) = answer(http.post("/search/batch", files=[("image", image)]))["answers"]
    return [(each["predicted"], each["confidence"]) for each in [*found, one["answer"]]]


def in_folder(mine: Path) -> set[str]:
    return {path.name for path in mine.parent.iterdir()}


def test_labels_teach_and_what_was_learned_is_measured_taken_and_tidied(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, QUICK)
    with Catalogue.open(mine / CATALOGUE) as catalogue:
        given = {item.id: truth(item.path) for item in catalogue.page(count=999)}
        catalogue.label_all({id_: (label, "given") for id_, label in given.items()})
    with served(mine) as http:
        assert http.get("/eval/map").status_code == 409  # nothing was held out when it was built
        assert predictions(http, 1) == [(None, None)] * 5
        job = learn(http)
        assert (job["status"], job["artifact"], job["target"]) == ("running", "mine", "mine-learned-1")
        said = answer(http.post("/labels/learn"), 409)["detail"]
        assert said == f"job {job['id']} is learning already; wait for it, or cancel it"
        done = until(http, job["id"], "done")
        result = done["result"]
        assert result["artifact"] == "mine-learned-1"
        assert result["learned_from"] + result["held_out"] == 240
        assert result["after"]["images"] == result["held_out"] > 50
        assert result["after"]["map"] > 0.9  # stripes lie or stand
        assert list(faults(mine.parent / "mine-learned-1")) == []
        assert not done["in_use"]

        reload(http, "mine-learned-1", force=True)
        assert answer(http.get("/eval/map"))["definition"]["queries"] == result["held_out"]
        right = 0
        for image in answer(http.get("/images", params={"limit": 8}))["images"]:
            labels, confidences = zip(*predictions(http, image["id"]), strict=True)
            assert len(set(labels)) == 1
            assert confidences == pytest.approx([confidences[0]] * 5, abs=0.01)  # an embedding has 16 bits
            assert 0.5 <= confidences[0] <= 1
            right += labels[0] == image["label"]
        assert right >= 7
        code = {"codes": ["0" * 8], "encoder_id": answer(http.get("/stats"))["encoder_id"]}
        (of_code,) = answer(http.post("/search/codes", json=code))["answers"]
        assert of_code["predicted"] is of_code["confidence"] is None
        (listed,) = answer(http.get("/jobs"))["jobs"]
        assert listed["in_use"]
        assert "is served, or kept" in answer(http.delete(f"/jobs/{job['id']}"), 409)["detail"]
        child(monkeypatch, COPYING)
        second = learn(http)
        assert second["target"] == "mine-learned-2"
        assert second["seconds_left"] > 0  # by how long the first one took
        until(http, second["id"], "done")
        reload(http, "mine-learned-2", force=True)
        assert {"mine", "mine-learned-1", "mine-learned-2"} <= in_folder(mine)  # to go back to
        third = learn(http)
        until(http, third["id"], "done")
        reload(http, third["target"], force=True)
        assert "mine-learned-1" not in in_folder(mine)
        assert {"mine", "mine-learned-2", "mine-learned-3"} <= in_folder(mine)
        late = add(http, png(1), "late.png")
        assert [each["id"] for each in answer(http.get("/jobs"))["jobs"]] == [third["id"], second["id"]]
    with served(mine) as http:  # asked for the first, though the second is gone
        assert answer(http.get("/stats"))["artifact"] == "mine-learned-3"
        assert answer(http.get(f"/images/{late}"))["path"] == "late.png"


def test_what_is_not_taken_is_let_go(http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, COPYING)
    job = learn(http)
    done = until(http, job["id"], "done")
    assert done["result"]["before"] is done["result"]["after"] is None  # too few to judge by
    answer(http.delete(f"/jobs/{job['id']}"), 204)
    assert in_folder(mine) == {"mine", *NOTED}
    assert answer(http.get(f"/jobs/{job['id']}"), 404)["detail"] == f"there is no job {job['id']}"


def test_a_job_is_cancelled_and_another_begins(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, WAITING)
    job = learn(http)
    until(http, job["id"], "running", "waiting")
    answer(http.delete(f"/jobs/{job['id']}"), 204)
    assert until(http, job["id"], "cancelled")["result"] is None
    again = learn(http)
    assert again["id"] == job["id"] + 1
    until(http, again["id"], "running", "waiting")
    answer(http.delete(f"/jobs/{job['id']}"), 204)  # the line of the first
    assert [each["id"] for each in answer(http.get("/jobs"))["jobs"]] == [again["id"]]


def test_while_a_cancelled_job_is_ending_none_begins_and_nothing_is_stuck(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slowly = f"import signal, sys; signal.signal(2, lambda *_: sys.exit(open({str(gate)!r}).read()))\n"
    child(monkeypatch, slowly + WAITING)
    job = learn(http)
    until(http, job["id"], "running", "waiting")
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(http.delete, f"/jobs/{job['id']}")]
        until(http, job["id"], "cancelled")
        assert "has not ended yet" in answer(http.post("/labels/learn"), 409)["detail"]
        ends.append(threads.submit(http.delete, f"/jobs/{job['id']}"))  # its line too
        gate.write_text("")  # now it may end
        assert [end.result().status_code for end in ends] == [204, 204]
    child(monkeypatch, COPYING)
    until(http, learn(http)["id"], "done")


def test_why_a_job_failed_is_said_and_nothing_is_left(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, FAILING)
    job = learn(http)
    assert until(http, job["id"], "failed")["error"] == "it cannot be done"
    child(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert until(http, learn(http)["id"], "failed")["error"] == "ended by SIGKILL"
    monkeypatch.setattr(jobs, "LABEL", ("/nowhere/python",))
    assert "No such file" in until(http, learn(http)["id"], "failed")["error"]
    assert in_folder(mine) == {"mine", *NOTED}
    assert (
        len(answer(http.post("/search?k=3", content=http.get("/images/1/original").content))["results"]) == 3
    )


def test_what_a_library_prints_is_no_result_and_a_child_that_cannot_be_heard_is_ended(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'print(\'5\\n[]\\nnull\\n"progress"\\n{}\\n{"progress": 3}\\nno JSON\', flush=True)'
    child(monkeypatch, odd + COPYING)
    until(http, learn(http)["id"], "done")
    monkeypatch.setattr(jobs, "LONGEST_LINE", 1000)
    child(monkeypatch, "print('a' * 10_000, flush=True)" + WAITING)
    job = learn(http)
    assert "limit" in until(http, job["id"], "failed")["error"]
    monkeypatch.setattr(jobs.Child, "learned", lambda *_: 1 / 0)
    job = learn(http)
    assert until(http, job["id"], "failed")["error"] == "ZeroDivisionError: division by zero"
    monkeypatch.undo()
    child(monkeypatch, COPYING)
    until(http, learn(http)["id"], "done")
    assert f"mine-learned-{job['id']}" not in in_folder(mine)


def test_what_another_service_on_the_same_file_took_stays(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, COPYING)
    with served(mine) as one, served(mine) as other:
        for number in (1, 2):
            until(other, learn(one)["id"], "done")
            reload(one, f"mine-learned-{number}", force=True)
        assert answer(other.get("/stats"))["artifact"] == "mine"
        for number in (1, 2):  # what it would go back to, and what it serves
            assert "is served, or kept" in answer(other.delete(f"/jobs/{number}"), 409)["detail"]
        late = add(one, png(1), "late.png")
    with served(mine) as http:
        assert answer(http.get("/stats"))["artifact"] == "mine-learned-2"
        assert answer(http.get(f"/images/{late}"))["path"] == "late.png"


def test_no_name_is_given_twice_and_nothing_of_others_is_deleted(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine.parent / "mine-learned-1").mkdir()  # before anything was noted
    child(monkeypatch, WAITING)
    job = learn(http)
    assert (job["id"], job["target"]) == (2, "mine-learned-2")
    until(http, 2, "running", "waiting")
    answer(http.delete("/jobs/2"), 204)
    child(monkeypatch, FAILING)
    until(http, learn(http)["id"], "failed")
    child(monkeypatch, COPYING)
    assert until(http, learn(http)["id"], "done")["target"] == "mine-learned-4"
    (mine.parent / "mine-learned-3").mkdir()  # somebody's own, since
    for number in (2, 3):
        answer(http.delete(f"/jobs/{number}"), 204)
    assert {f"mine-learned-{number}" for number in (1, 3, 4)} <= in_folder(mine)


def test_of_what_is_cancelled_at_its_end_nothing_is_left(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another service: this one's child has made all of it and has not ended yet."""
    monkeypatch.setattr(jobs, "LOOKED", 0.05)
    child(
        monkeypatch,
        COPYING.replace(
            "print(json", 'print(\'{"progress": "made"}\', flush=True)\nsys.stdin.read()\nprint(json'
        ),
    )
    job = learn(http)
    until(http, job["id"], "running", "made")
    assert (mine.parent / job["target"]).exists()
    assert jobs.Records(mine, None).cancelled(job["id"]).status == "running"
    while http.post("/labels/learn").status_code != 202:
        time.sleep(0.02)
    assert not (mine.parent / job["target"]).exists()


def test_an_end_that_cannot_be_noted_holds_nobody_up_and_is_noted_later(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = mine.parent / "gate"
    os.mkfifo(gate)
    child(monkeypatch, COPYING.replace("print(json", f"open({str(gate)!r}).read(); print(json"))
    monkeypatch.setattr(jobs, "LOOKED", 0.05)
    job = learn(http)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device", str(mine.parent))

        full.setattr(LedgerFile, "writing", refuse)
        gate.write_text("")
        assert "is learning already" in answer(http.post("/labels/learn"), 409)["detail"]
        assert "No space left on device; nothing was deleted" in answer(http.delete("/jobs/1"), 507)["detail"]
        assert answer(http.get("/jobs/1"))["status"] == "running"
    assert until(http, job["id"], "done")["result"]["artifact"] == job["target"]


def test_a_service_that_writes_for_long_holds_nobody_up(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an earlier version held the lock as long as it ran."""
    child(monkeypatch, WAITING)
    with served(mine) as http:
        until(http, learn(http)["id"], "running", "waiting")
    monkeypatch.setattr("index.ledger.WAIT", 0.1)
    with locked(mine.parent / ".mine.jobs.lock"), served(mine) as http:
        said = answer(http.post("/labels/learn"), 503)["detail"]
        assert "another service, perhaps of an earlier version, holds it" in said
        assert answer(http.get("/jobs/1"))["status"] == "running"
        answer(http.delete("/jobs/1"), 503)


def test_the_command_waits_says_what_it_brought_and_takes_it(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--url", str(http.base_url)]
    child(monkeypatch, FAILING)
    assert main(["learn", *address]) == 1
    assert capsys.readouterr().err == "hebbsearch: job 1: it cannot be done\n"
    child(monkeypatch, COPYING)
    assert main(["learn", *address]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mine-learned-2: learned from 1 labels"
    assert said[1] == "0 labels are held out: too few to judge by"
    assert said[2] == "hebbsearch reload mine-learned-2 serves it; hebbsearch jobs --end 2 deletes it"
    assert main(["jobs", "--end", "2", *address]) == 0
    assert "mine-learned-2" not in in_folder(mine)
    child(monkeypatch, ALONE)
    assert main(["learn", *address]) == 0
    said = capsys.readouterr().out.splitlines()[-3]
    assert said == "all of these are 'owl': no label is predicted until there is a second one"
    assert main(["jobs", "--end", "3", *address]) == 0
    child(monkeypatch, COPYING)
    assert main(["learn", "--take", *address]) == 0
    assert "mine-learned-4 takes the place of mine" in capsys.readouterr().out
    assert main(["jobs", *address]) == 0
    assert re.search(
        r"^ +4  done +mine-learned-4, in use", capsys.readouterr().out, re.M
    )  # no id comes again


def test_where_there_is_no_room_nothing_begins(
    http: httpx.Client, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(mine)
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "1,000 are free; free space" in answer(http.post("/labels/learn"), 507)["detail"]
    monkeypatch.undo()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(mine.parent))

    monkeypatch.setattr(LedgerFile, "writing", refuse)
    assert "Permission denied; nothing was begun" in answer(http.post("/labels/learn"), 409)["detail"]
    assert answer(http.get("/jobs")) == {"jobs": []}


def test_who_may_only_read_sees_jobs_and_begins_none(mine: Path) -> None:
    keys = {"read_keys": "r" * 16, "write_keys": "w" * 16}
    with served(mine, **keys) as http:
        http.headers["Authorization"] = f"Bearer {'r' * 16}"
        assert answer(http.get("/jobs")) == {"jobs": []}
        assert "write key" in answer(http.post("/labels/learn"), 403)["detail"]
        assert "write key" in answer(http.delete("/jobs/1"), 403)["detail"]


def test_a_stop_cuts_a_job_off_and_the_next_start_begins_it_again(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, WAITING)
    with served(mine) as http:
        job = learn(http)
        until(http, job["id"], "running", "waiting")
    (noted,) = json.loads((mine.parent / ".mine.jobs.json").read_text())["jobs"]
    assert (noted["id"], noted["status"]) == (job["id"], "running")
    child(monkeypatch, COPYING)
    with served(mine) as http:
        assert until(http, job["id"], "done")["result"]["artifact"] == job["target"]
    (mine.parent / ".mine.jobs.json").write_text("no JSON")
    with served(mine) as http:
        assert answer(http.get("/jobs")) == {"jobs": []}


def test_a_service_that_is_killed_leaves_no_child_and_begins_again(own: Artifact) -> None:
    mine = own.path
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def started() -> forking.Popen:
        process = forking.Popen(command(port), env=environment(mine))
        wait_until_ready(address, process)
        return process

    def unfinished() -> list[Path]:
        return list(mine.parent.glob(".unfinished-*"))

    first = started()
    with httpx.Client(base_url=address, timeout=60) as http:
        job = learn(http)
        while not unfinished():  # the child is at work
            assert answer(http.get(f"/jobs/{job['id']}"))["status"] == "running"
            time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    while unfinished():  # it notices, and takes away what it began
        time.sleep(0.02)
    second = started()
    try:
        with httpx.Client(base_url=address, timeout=60) as http:
            assert answer(http.get(f"/jobs/{job['id']}"))["status"] == "running"
            answer(http.delete(f"/jobs/{job['id']}"), 204)
            assert until(http, job["id"], "cancelled")
            assert not unfinished()
    finally:
        second.terminate()
        second.wait()
    assert not (mine.parent / job["target"]).exists()
