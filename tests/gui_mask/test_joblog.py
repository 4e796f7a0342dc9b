"""What a page reads out of a command's log."""

from pathlib import Path

from gui_mask.joblog import Progress, complaint, last_command, last_progress, read_lines

LOG = (
    b"$ maskora train --config x\nloading\n"
    b"\rmotion:   0%|          | 0/30 [00:00<?, ?step/s]"
    b"\rmotion:  10%|\xe2\x96\x88         | 3/30 [00:03<00:27,  1.00s/step, loss=0.1]"
    b"interrupted: this step is finished and saved first\n"
    b"\x1b[31mred\x1b[0m\r\nhalf of \xe2\x96\n"
    b"$ maskora infer --config x\n"
    b"\rdenoise:  50%|#####     | 4/8 [01:00<01:02:03, 15s/step]"
)


def test_a_log_reads_as_in_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"earlier\n" + LOG)
    lines = read_lines(path, start=8)
    assert lines[:2] == ["$ maskora train --config x", "loading"]
    assert lines[2].startswith("motion:  10%")
    assert lines[2].endswith("loss=0.1]")
    assert lines[3] == "interrupted: this step is finished and saved first"
    assert lines[4:6] == ["red", "half of \N{REPLACEMENT CHARACTER}"]
    assert last_command(lines) == [lines[-1]]
    progress = last_progress(lines)
    assert progress == Progress("denoise", 4, 8, "01:02:03")
    assert progress.told == "denoise: step 4 of 8, 01:02:03 left"
    assert last_progress(lines[:4]) == Progress("motion", 3, 30, "00:27")
    assert last_progress(["motion:   0%|          | 0/30 [00:00<?, ?step/s]"]) == Progress(
        "motion", 0, 30, None
    )
    assert last_progress(["nothing"]) is None


def test_of_a_long_log_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("".join(f"line {n}\n" for n in range(100_000)))
    lines = read_lines(path)
    assert lines[-1] == "line 99999"
    assert len(lines) < 50_000
    assert lines == [f"line {n}" for n in range(100_000 - len(lines), 100_000)]
    assert read_lines(tmp_path / "none") == []


def test_the_reason_of_a_failure_is_the_last_message() -> None:
    assert complaint(["x", "maskora: a: 2 problems", "  one", "  two"]) == (
        "a: 2 problems\n  one\n  two"
    )
    assert complaint(["Traceback", "KeyError: 1", ""]) == "KeyError: 1"
    assert complaint([]) == "it said nothing"
