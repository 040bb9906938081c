import json

import pytest

from cmkd.errors import InputError
from cmkd.report import markdown_table, summary_rows
from cmkd.training import RunFolder
from tests.report.synthetic import write_run


def test_rows_hold_the_figures_worked_out_by_hand(compared):
    teacher, ce, kd, cmkd = summary_rows(compared)
    assert teacher == {
        "method": "Teacher (resnet20)",
        "test accuracy (%)": "91.50",
        "agreement with teacher (%)": "–",
        "rank correlation with teacher": "–",
        "parameters": "272,474",
        "CPU latency (ms)": "–",
        "runs": "–",
    }
    assert ce == {
        "method": "CE",
        "test accuracy (%)": "80.00",
        "agreement with teacher (%)": "–",
        "rank correlation with teacher": "–",
        "parameters": "78,042",
        "CPU latency (ms)": "1.50",
        "runs": "1",
    }
    assert (kd["agreement with teacher (%)"], kd["rank correlation with teacher"]) == ("84.00", "0.870")
    # 84, 85, 87: mean 256/3, sum of squares (16 + 1 + 25)/9 = 42/9, divided by n - 1 = 2: sqrt(7/3) = 1.5275
    assert cmkd == {
        "method": "CMKD",
        "test accuracy (%)": "85.33 ± 1.53",
        "agreement with teacher (%)": "87.33 ± 1.53",
        "rank correlation with teacher": "0.903 ± 0.015",
        "parameters": "78,042",
        "CPU latency (ms)": "2.00",
        "runs": "3",
    }


def test_without_a_teacher_or_a_second_seed_their_columns_are_left_out(compared):
    assert [list(row) for row in summary_rows({"CE": compared["CE"]})] == [
        ["method", "test accuracy (%)", "parameters", "CPU latency (ms)"]
    ]


def test_run_folders_paths_and_strings_are_all_taken(compared):
    path = compared["KD"][0]
    as_path, as_text, as_folder = (summary_rows({"KD": [run]}) for run in (path, str(path), RunFolder(path)))
    assert as_path == as_text == as_folder


def test_two_teachers_get_a_row_each(compared, tmp_path):
    other = write_run(tmp_path / "other")
    card = json.loads((other / "teacher.json").read_text())
    (other / "teacher.json").write_text(json.dumps({**card, "sha256": "cd" * 32, "network": "resnet56"}))
    names = [row["method"] for row in summary_rows({**compared, "CMKD'": [other]})]
    assert names[:2] == ["Teacher (resnet20)", "Teacher (resnet56)"]
    (other / "teacher.json").write_text(json.dumps({**card, "sha256": "cd" * 32}))
    names = [row["method"] for row in summary_rows({**compared, "CMKD'": [other]})]
    assert names[:2] == ["Teacher (resnet20 ababab)", "Teacher (resnet20 cdcdcd)"]


def test_a_run_that_has_not_finished_is_shown_as_such(compared, tmp_path):
    running = write_run(tmp_path / "running", finished=False)
    alone = summary_rows({"CMKD": [running]})[-1]
    assert alone["method"] == "CMKD (not finished)"
    beside = summary_rows({"CMKD": [compared["CMKD"][0], running]})[-1]
    assert (beside["test accuracy (%)"], beside["runs"]) == ("84.00", "1 of 2 finished")


def test_a_mean_over_nothing_is_no_measurement(tmp_path):
    run = write_run(tmp_path / "run", accuracy=0.85)
    result = json.loads((run / "result.json").read_text())
    result["test"]["rank_correlation"] = float("nan")
    (run / "result.json").write_text(json.dumps(result))
    assert "rank correlation with teacher" not in summary_rows({"CMKD": [run]})[-1]


def test_markdown_has_aligned_columns_and_a_rule(compared):
    lines = markdown_table(compared).splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("|----")
    assert lines[1].endswith("-:|")
    assert [cell.strip() for cell in lines[-1].split("|")[1:4]] == ["CMKD", "85.33 ± 1.53", "87.33 ± 1.53"]


def test_markdown_keeps_a_label_in_its_cell(compared):
    line = markdown_table({"a|b\n<b>&": compared["CE"]}).splitlines()[-1]
    assert line.startswith(r"| a\|b &lt;b&gt;&amp; |")


def test_a_folder_that_is_no_run_is_named(tmp_path, compared):
    with pytest.raises(InputError, match="nowhere is no run folder"):
        summary_rows({"KD": compared["KD"], "CMKD": [tmp_path / "nowhere"]})
    (tmp_path / "config.yaml").write_text("- a list\n")
    with pytest.raises(InputError, match="is no run folder"):
        summary_rows({"CMKD": [tmp_path]})


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no runs to report on"):
        summary_rows({})
    with pytest.raises(InputError, match="'KD' has no runs"):
        summary_rows({"KD": []})


def test_a_damaged_row_of_metrics_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lr"')
    with pytest.raises(InputError, match=r"metrics\.jsonl has a row that is not valid JSON"):
        summary_rows({"CMKD": [run]})
