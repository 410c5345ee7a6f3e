"""Whatever a block of the GPU's benchmark does, its rows are on the disk and the next block runs."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.device.toy_benchmark import TOY, Toy, metrics, written

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def test_errors_hangs_and_deaths_are_records_and_the_rest_runs(toy):
    names = ("raises", "interrupts", "hangs", "exits", "crashes", "lacks", "lacks_optional")
    blocks = [f'block("{name}", {1 if name == "hangs" else 20})' for name in names]
    status, ended = toy.run(f'Step([{", ".join(blocks)}, block("good")])')
    assert status == 2
    assert {name: ended[name]["status"] for name in ended} == {
        "raises": "failed",
        "interrupts": "failed",
        "hangs": "failed",
        "exits": "failed",
        "crashes": "failed",
        "lacks": "failed",
        "lacks_optional": "left out",
        "good": "done",
    }, toy.errors
    assert ended["raises"]["error"] == "MemoryError: CUDA out of memory"
    assert ended["interrupts"]["error"].startswith("KeyboardInterrupt")
    assert ended["hangs"]["error"] == "TimeoutError: not done in 1 s"
    assert ended["exits"]["error"] == "RuntimeError: the process ended: exit status 7"
    assert ended["crashes"]["error"] == "RuntimeError: the process ended: signal 11"
    assert ended["lacks"]["error"].startswith("ModuleNotFoundError")
    assert ended["lacks_optional"]["left_out"] == "cbor2 is not installed"
    befores = [f"before it {name}" for name in ("raises", "interrupts", "hangs", "exits")]
    assert metrics(toy.out) == [*befores, "good"]


def test_a_block_that_loses_the_device_gets_its_successor_a_new_process(toy):
    again = 'Block("who else", "toy:who"), Block("and who", "toy:who")'
    _, ended = toy.run(f'Step([block("who"), block("loses_device"), {again}])')
    first, second, third = [r["says"] for r in written(toy.out) if "says" in r]
    assert first != second == third
    assert ended["loses_device"]["error"] == "RuntimeError: an illegal memory access"


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ('Step([block("good")])', 0),
        ('Step([block("good"), block("missed")])', 1),
        ('Step([block("missed"), block("raises")])', 2),
    ],
)
def test_the_exit_status_says_what_matters_most(toy, steps, status):
    assert toy.run(steps)[0] == status, toy.errors


def test_rows_are_on_the_disk_before_the_end_and_a_killed_run_leaves_no_process(toy):
    process = toy.start('Step([block("who"), block("slow", 60)])')
    toy.wait_for("slow 2")
    process.kill()
    process.communicate()
    (worker,) = [record["says"] for record in written(toy.out) if "says" in record]
    end = time.monotonic() + 20
    while Path("/proc", worker).exists() and time.monotonic() < end:
        state = Path("/proc", worker, "stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    count = len(metrics(toy.out))
    assert count >= 3
    time.sleep(0.3)
    assert len(metrics(toy.out)) == count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_behind_a_row_with_a_summary(toy, number):
    process = toy.start('Step([block("slow", 60), block("good")])')
    toy.wait_for("slow 2")
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    ended = {record["block"]: record for record in written(toy.out) if "status" in record}
    assert ended["slow"]["status"] == ended["good"]["status"] == "cut off"
    assert number.name in ended["slow"]["error"]
    assert "slow 2, case" in printed
    assert "slow 2, case" in (toy.out / "gpu-summary.txt").read_text()


def test_nothing_goes_on_behind_the_deadline(toy):
    begin = time.monotonic()
    status, ended = toy.run('Step([block("slow", 60)]), Step([block("good")])', "--deadline", "6")
    assert time.monotonic() - begin < 30
    assert status == 0
    assert "slow 2" in metrics(toy.out)
    assert {record["status"] for record in ended.values()} == {"cut off"}
    assert "deadline" in ended["good"]["error"]


def test_a_check_that_is_cut_off_has_not_passed(toy):
    steps = 'Step([block("slow", 60, True)])'
    assert toy.run(steps, "--deadline", "5", "--data", str(toy.folder))[0] == 2
    assert "not published" in toy.errors
    assert not (toy.folder / "gpu.csv").exists()


def test_tools_run_at_once_beside_blocks_and_say_what_they_found(toy):
    status, ended = toy.run(
        'Step([block("good")], ['
        'Command("well", "print(1)"), Command("ill", "print(77); exit(3)"), Command("none", ""), '
        'Command("stuck", "import subprocess, sys; '
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(1000)'])\", 2)])"
    )
    assert status == 2
    assert {name: record["status"] for name, record in ended.items()} == {
        "good": "done",
        "well": "passed",
        "ill": "failed",
        "none": "left out",
        "stuck": "failed",
    }
    assert ended["ill"]["error"] == "AssertionError: exit status 3: 77\n"
    assert ended["stuck"]["error"] == "TimeoutError: not done in 2 s"
    assert "== ill\n77" in (toy.out / "gpu-tools.log").read_text()


def test_rows_say_which_checks_had_passed_before_them(toy):
    toy.run('Step([block("good"), block("passes", 20, True), block("missed")])')
    checked = {r["metric"]: r["checked"] for r in written(toy.out) if "metric" in r}
    assert checked == {"good": [], "missed": ["passes"]}


def test_a_table_is_published_where_all_checks_passed(toy):
    steps = 'Step([block("passes", 20, True), block("missed")])'
    assert toy.run(steps, "--data", str(toy.folder), "--revision", "abc")[0] == 1
    with (toy.folder / "gpu.csv").open(newline="") as file:
        (record,) = csv.DictReader(file)
    assert record["device"] == "toy"
    assert record["checked"] == "passes"
    assert record["revision"] == "abc"
    assert record["kvgpu"] == "3"


def test_a_failure_publishes_nothing(toy):
    toy.run('Step([block("good"), block("raises")])', "--data", str(toy.folder))
    assert not (toy.folder / "gpu.csv").exists()


def test_rows_go_where_the_environment_says(toy):
    (toy.folder / "toy.py").write_text(TOY.replace("STEPS_HERE", 'Step([block("good")])'))
    done = subprocess.run(
        [sys.executable, "bench/gpu.py", "--blocks", "toy"],
        cwd=ROOT,
        capture_output=True,
        env=toy.environment | {"OUT": str(toy.folder / "elsewhere")},
        check=False,
    )
    assert done.returncode == 0
    assert metrics(toy.folder / "elsewhere") == ["good"]


def test_a_machine_on_which_no_worker_starts_is_given_up(toy):
    steps = 'Step([block("good"), block("missed"), block("who"), block("passes")])'
    source = TOY.replace('return {"device"', 'exit(5); return {"device"')
    status, ended = toy.run(steps, source=source)
    assert status == 2
    assert [r["status"] for r in ended.values()] == ["failed", "failed", "failed", "cut off"]
    assert "exit status 5" in ended["good"]["error"]


def test_a_folder_that_cannot_be_written_is_refused_at_once(toy):
    toy.out.write_text("a file")
    process = toy.start('Step([block("good")])')
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no rows can be written" in errors
