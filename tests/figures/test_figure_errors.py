"""Bad input of the figure command: one line, and nothing is written."""

import pytest

from helpers.command_line import cli, files_in, refused

ONE = "1 --dataset TINY "
TWO = "2 --dataset TINY "


@pytest.mark.parametrize(
    ("line", "code", "fragments"),
    [
        ("", 2, "--results|figure --help"),
        ("--dataset TINY --figure 7", 2, "1, 2, 3, 4, features, sensitivity|'7'"),
        ("--dataset TINY", 2, "--dataset|figure --help"),
        ("7", 2, "1, 2, 3, 4, features, sensitivity|'7'"),
        (ONE + "--pick random", 2, "hint has no option --pick|--ratio"),
        (ONE + "--make 1", 2, "hint has no option --make"),
        (ONE + "--images 0", 2, "--images|or equal to 1|'0'"),
        (ONE + "--rho 1.5", 2, "--rho|[0, 1]|1.5"),
        (ONE + "--rho nan", 2, "--rho|nan"),
        (ONE + "--trial -1", 2, "--trial|'-1'"),
        (ONE + "--attack pgdd", 2, "'pgdd'|did you mean 'pgd'"),
        (ONE + "--ratio 2 --rho 0", 2, "ratio|(0, 1]|2"),
        (ONE + "--schedule 30 --rho 0", 2, "schedule|before epoch 30"),
        (ONE + "--ration 2 --rho 0", 2, "--ration|did you mean '--ratio'"),
        (ONE + "--profile papr --rho 0", 2, "'papr'|did you mean 'paper'"),
        (ONE + "--device tpu", 2, "cuda:N|'tpu'"),
        (TWO + "--wrong-label", 2, "--wrong-label|figure 2 --help"),
        (TWO + "--ratio 0.5", 2, "--ratio|figure 2 --help"),
        (TWO + "--pick best", 2, "--pick|disagree, random|'best'"),
        (TWO + "--methods none,hnt", 2, "'hnt'|did you mean 'hint'"),
        (TWO + "--runs a --attack pgd", 2, "--runs without --attack"),
        (TWO + "--runs a", 65, "the id of a run|'a'"),
        (TWO + "--runs ../x", 65, "the id of a run|'../x'"),
        (TWO, 65, "defend --method none --dataset TINY|--save-model|--make"),
        (TWO + "--attack pgd --seed 3", 65, "--attack pgd --rho 0.6 --trial 0|--seed 3"),
        ("sensitivity --dataset mnist --rho 1", 2, "--rho|figure sensitivity --help"),
        ("sensitivity --dataset TINY", 2, "mnist, cifar10, cifar10@10000, mnist-sample"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(line, code, fragments, tiny, results):
    words = [tiny if word == "TINY" else word for word in line.split()]
    outcome = cli("figure", *words, "--results", results)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: ")
    for fragment in fragments.replace("TINY", tiny).split("|"):
        assert fragment in last
    assert not results.exists() or files_in(results) == []


@pytest.mark.parametrize("figure", ["2", "3", "4", "features", "sensitivity", "filter-k"])
def test_the_commands_of_missing_runs_use_the_same_folders(figure, results, tmp_path):
    results.mkdir()
    named = ("--results", results, "--data-root", tmp_path)
    words = named if figure in ("2", "3", "4", "features") else named[:2]
    message = cli("figure", figure, "--preset", "quick", *words).err.splitlines()[-1]
    assert f"--results {results}" in message.partition("`poisonbench ")[2].partition("`")[0]
    if words == named:
        assert f"--data-root {tmp_path}" in message


@pytest.mark.parametrize("figure", ["1", "2", "3", "4", "features", "sensitivity", "filter-k"])
def test_a_submission_is_no_results_folder(figure, tmp_path):
    path = tmp_path / "a.submission.zip"
    path.write_text("")
    outcome = cli("figure", figure, "--preset", "quick", "--results", path)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(
        f"error: --results: expected a results folder, got the file {path}"
    )
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("figure", ["1", "2", "sensitivity"])
def test_a_folder_that_cannot_be_written(figure, tiny, results, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    dataset = "mnist" if figure == "sensitivity" else tiny
    results.mkdir()
    outcome = cli(
        *("figure", figure, "--dataset", dataset, "--results", results),
        *("--out", blocked),
    )
    assert outcome.code == 73
    assert str(blocked) in outcome.err
    # Found out before the work.
    assert files_in(results) == []


@pytest.mark.parametrize("figure", ["3", "4", "features", "filter-k"])
def test_the_quick_preset_of_a_targeted_figure_is_the_targeted_sample(figure, results):
    results.mkdir()
    line = ("figure", figure, "--preset", "quick")
    assert "mnist-sample@1000" in refused(65, results, *line)
