"""Submissions, a leaderboard of them, and what is refused of edited or hostile ones."""

import json
import shutil
import zipfile

import pytest

from helpers.command_line import cli, done, refused
from helpers.handed_on import edit_record, flip, poisons, records, rezip, verified
from helpers.html import Document
from poisonbench.results.submissions import SUFFIX, records_at
from poisonbench.specs import seal_of
from poisonbench.tables.layout import DASH


def submitted(results, path, name="Ada", *more):
    done("submit", results, "--name", name, "--output", path, *more)
    return path


def test_a_submission_has_the_same_bytes_and_shows_what_the_folder_does(results, tmp_path):
    first = submitted(results, tmp_path / "a.submission.zip")
    second = submitted(results, tmp_path / "b.submission.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        for run in records(results).values():
            assert archive.read(f"runs/{run.id}.json") == run.path.read_bytes()
        assert len(names) == 1 + len(records(results)) + len(poisons(results))
    for words in (("--runs",), ("--summary",), ("--table", "matrix")):
        of_folder = done("report", *words, "--results", results).out
        assert done("report", *words, "--results", first).out == of_folder
    assert verified(tmp_path, first).code == 0


def test_a_submission_is_written_to_by_no_command_and_inspect_says_what_reads_it(results, tmp_path):
    path = submitted(results, tmp_path / "a.submission.zip")
    missing = done("report", "--missing", "--results", path).out
    assert missing.startswith("poisonbench defend")
    assert str(path) not in missing
    assert f"--results {results}" in done("report", "--missing", "--results", results).out
    shows = (
        f"got the submission {path}; `poisonbench report --runs --results {path}` shows its runs"
    )
    assert shows in refused(2, results, "inspect", path)
    run = records(results)["clean"].id
    assert f"expected a results folder, got the file {path}" in refused(2, path, "inspect", run)


def test_a_leaderboard_shows_who_submitted_what(results, tmp_path):
    board = tmp_path / "board"
    submitted(results, board / "ada.submission.zip", "Ada <b>", "--note", "all & sundry")
    clean = records(results)["clean"]
    (results / "runs" / f"{records(results)['badnets'].id}.json").unlink()
    edit_record(clean.path, flip)
    submitted(results, board / "bob.submission.zip", "Bob")
    page = tmp_path / "page.html"
    outcome = done("page", "--results", board, "--output", page, "--json")
    assert outcome.json["runs"] == 2
    text = page.read_text()
    assert "Who submitted what" in text
    assert "Ada &lt;b&gt;" in text
    assert "<b>" not in text.partition("Who submitted what")[2].partition("</table>")[0]
    assert "all & sundry" in text
    assert text.count("1 with others") == 2
    assert "<dt>submitted by<dd>Ada &lt;b&gt;, Bob" in text
    whole = tmp_path / "whole.html"
    done("page", "--results", results, "--output", whole)
    assert "Who submitted what" not in whole.read_text()
    named = []
    assert len(records_at(board, lambda error: named.append(str(error)))) == 2
    other, taken = (board / f"{who}.submission.zip" / "runs" for who in ("bob", "ada"))
    file = clean.path.name
    (sentence,) = named
    assert sentence.startswith(f"{other / file} has other figures of the same run than {taken}/")
    assert outcome.json["passed_over"] == [sentence]
    assert f"warning: passed over: {sentence}" in outcome.err


def run_again(fields):
    """The same figures at another time, as somebody else's run has them."""
    fields["environment"]["finished"] = "2030-01-01T00:00:00+00:00"


def shared_of(tmp_path, board):
    """What the page of a leaderboard says of the runs that submissions share, and its remarks."""
    page = tmp_path / "page.html"
    outcome = done("page", "--results", board, "--output", page, "--json")
    cells = Document(page.read_text()).texts["td"]
    shared = [cells[place + 2] for place, text in enumerate(cells) if text.endswith(SUFFIX)]
    return shared, outcome.json["passed_over"]


def test_a_copy_of_a_submission_confirms_nothing(results, tmp_path):
    board = tmp_path / "board"
    first = submitted(results, board / "ada.submission.zip")
    copy = shutil.copy(first, board / "copy.submission.zip")
    shared, passed_over = shared_of(tmp_path, board)
    assert shared == [DASH]
    assert passed_over == [f"{copy} is the same submission as {first}, and counts once"]
    submitted(results, copy, "Eve")
    assert shared_of(tmp_path, board) == (2 * ["2 as the same record"], [])
    edit_record(records(results)["clean"].path, run_again)
    submitted(results, copy, "Bob")
    text = "1 with the same figures, 1 as the same record"
    assert shared_of(tmp_path, board) == (2 * [text], [])


def accuracy_of_one(files):
    name = next(name for name in sorted(files) if name.startswith("runs/"))
    fields = json.loads(files[name])
    fields["metrics"]["test_accuracy"] = 1.0
    fields["seal"] = seal_of(fields)
    files[name] = json.dumps(fields).encode()


def take_one_out(files):
    del files[next(name for name in sorted(files) if name.startswith("runs/"))]


def add_one(files):
    fields = json.loads(files[next(name for name in sorted(files) if name.startswith("runs/"))])
    files["runs/0123456789abcdef.json"] = json.dumps(fields).encode()


def edit_card(files):
    name = next(name for name in sorted(files) if name.startswith("poisons/"))
    files[name] = files[name].replace(b'"num_poisons": ', b'"num_poisons": 1')


@pytest.mark.parametrize(
    ("change", "part", "left"),
    [
        (accuracy_of_one, "runs/", 1),
        (take_one_out, "runs/", 1),
        (add_one, "runs/0123456789abcdef.json", 2),
        (edit_card, "poisons/", 2),
    ],
)
def test_what_was_edited_is_refused_by_name_and_the_rest_is_read(
    results, tmp_path, change, part, left
):
    path = submitted(results, tmp_path / "x.submission.zip")
    rezip(path, change)
    outcome = done("page", "--results", path, "--output", tmp_path / "page.html", "--json")
    assert outcome.json["runs"] == left
    (damaged,) = outcome.json["damaged"]
    assert damaged.startswith(f"x.submission.zip: {part}")
    assert "left out" in outcome.err
    assert f"{path}: {part}" in done("report", "--runs", "--results", path).err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda files: files.__setitem__("../../evil.json", b"{}"), "got '../../evil.json'"),
        (lambda files: files.__setitem__("/etc/passwd", b"{}"), "of another kind"),
        (lambda files: files.__setitem__("runs/a.pkl", b"{}"), "of another kind"),
        (lambda files: files.__setitem__(f"runs/{16 * '0'}.json", bytes(2**25)), "at most"),
        (lambda files: files.pop("submission.json"), "submission.json of schema 1"),
        (
            lambda files: files.__setitem__(
                "submission.json", files["submission.json"].replace(b'"Ada"', b'"Eve"')
            ),
            "sealed, got an edited one",
        ),
        (lambda files: files.__setitem__("submission.json", b"[" * 10**5), "of schema 1"),
    ],
)
def test_a_hostile_archive_is_refused_whole(results, tmp_path, change, text):
    path = submitted(results, tmp_path / "x.submission.zip")
    rezip(path, change)
    outcome = cli("report", "--runs", "--results", path)
    assert outcome.code == 65
    assert text in outcome.err, outcome.err
    board = tmp_path / "board"
    board.mkdir()
    shutil.copy(path, board)
    assert "left out" in done("report", "--runs", "--results", board).err


def link(archive, about):
    about.external_attr = 0o120777 << 16
    archive.writestr(about, "/etc/passwd")


def twice(archive, about):
    archive.writestr(about, "{}")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(about.filename, "{}")


@pytest.mark.parametrize(("write", "text"), [(link, "got a link"), (twice, "twice")])
def test_links_and_names_that_are_there_twice_are_refused(tmp_path, write, text):
    path = tmp_path / "x.submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        write(archive, zipfile.ZipInfo(f"runs/{16 * '0'}.json"))
    outcome = cli("report", "--runs", "--results", path)
    assert outcome.code == 65
    assert text in outcome.err


def test_what_cannot_be_submitted_is_said(results, tmp_path):
    path = records(results)["clean"].path
    path.write_text(path.read_text().replace('"trial": 0', '"trial": 1'))
    out = ("--output", tmp_path / "x.submission.zip")
    outcome = cli("submit", results, *out)
    assert outcome.code == 65
    assert path.name in outcome.err
    assert not out[1].exists()
    (tmp_path / "empty").mkdir()
    for words, text in (
        ((tmp_path / "empty", *out), "without any"),
        ((tmp_path / "none", *out), "which is none"),
        ((results, "--output", tmp_path / "x.zip"), "ends with .submission.zip"),
        ((results, *out, "--name", "a\nb"), "--name: expected one line"),
    ):
        outcome = cli("submit", *words)
        assert outcome.code == 2
        assert text in outcome.err
