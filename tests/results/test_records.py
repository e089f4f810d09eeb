"""Records and their store: what is written is read back, and nothing half-written appears."""

import json
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.core.canonical import canonical_json, spec_id
from poisonbench.core.errors import ArtefactError, StoreError
from poisonbench.core.files import publish_folder, write_text
from poisonbench.results.records import Bits, read_record
from poisonbench.results.store import Store
from poisonbench.results.submissions import pack

keys = st.text(max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(values)
def test_canonical_json_is_read_back(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_spec_id_does_not_depend_on_the_order_of_keys(spec):
    assert spec_id(reversed_keys(spec)) == spec_id(spec)
    assert len(spec_id(spec)) == 16


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=3), st.dictionaries(keys, values, max_size=3))
def test_spec_ids_are_equal_where_the_texts_are(first, second):
    equal = canonical_json(first) == canonical_json(second)
    assert (spec_id(first) == spec_id(second)) == equal


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_lacks(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": number})


def test_spec_id_is_pinned():
    # Changing this orphans every record ever written.
    assert spec_id({"b": 1, "a": [0.5, None, "é"]}) == "0a15354e481f1f10"


@settings(max_examples=25, deadline=None)
@given(settings=st.dictionaries(keys, values, max_size=4))
def test_round_trip(tmp_path_factory, settings):
    store = Store(tmp_path_factory.mktemp("store"))
    plain = make_record(config=settings, rho=0.6)
    record = changed(plain, labels={"overrides": settings}, notes=[settings])
    path = store.write_record(record)
    assert read_record(path) == record
    assert store.records(pytest.fail) == [record]
    assert read_record(path).to_json() == path.read_text()


@pytest.mark.parametrize("rho", [1, 1.0])
def test_a_whole_number_in_a_spec_stays_what_it_was(tmp_path, rho):
    """An id is of the text, in which they differ."""
    record = make_record(rho=rho)
    assert read_record(Store(tmp_path).write_record(record)).id == record.id
    assert make_record(rho=1).id != make_record(rho=1.0).id


def test_records_come_in_order_and_without_failures(tmp_path):
    store = Store(tmp_path)
    records = [make_record(trial=trial) for trial in range(4)]
    for record in records:
        store.write_record(record)
    store.write_failure("0" * 16, make_record(trial=9).spec, "diverged")
    assert [r.id for r in store.records(pytest.fail)] == sorted(r.id for r in records)


def test_a_record_clears_the_failure_before_it(tmp_path):
    store = Store(tmp_path)
    record = make_record(trial=0)
    failure = store.write_failure(record.id, record.spec, "no memory")
    assert json.loads(failure.read_text())["reason"] == "no memory"
    store.write_record(record)
    assert not failure.exists()


def edit(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["spec"].update(trial=1), "the file was edited"),
        (lambda raw: raw.update(schema=3), "schema 2, got 3; upgrade poisonbench"),
        (lambda raw: raw.pop("labels"), "missing required field `labels`"),
        (lambda raw: raw.update(curve={}), r"Expected `array`, got `object` - at `\$.curve`"),
        (lambda raw: raw.update(extra=1), "unknown field `extra`"),
        (lambda raw: raw["metrics"].update(test_accuracy=1.5), r"in \[0, 1\], got 1.5"),
        (lambda raw: raw["metrics"].update(test_accuracy=float("nan")), "got nan"),
        (lambda raw: raw["metrics"].update(validation_accuracy=float("nan")), "not JSON compliant"),
        (lambda raw: raw["metrics"].clear(), "missing required field `test_accuracy`"),
        (lambda raw: raw["spec"].clear(), "missing required field"),
        (lambda raw: raw["spec"].update(kind="craft"), "Invalid value 'craft'"),
        (lambda raw: raw["spec"].update(trial="first"), "Expected `int`, got `str`"),
        (lambda raw: raw["spec"].update(dataset="mnist"), "Expected `object`, got `str`"),
        (lambda raw: raw["spec"].update(goal=None), "all or none of targeting, goal"),
        (lambda raw: raw["spec"].update(stage=None), "got an edited one"),
        (lambda raw: raw["environment"].update(device=None), "Expected `str`, got `null`"),
        (lambda raw: raw["cost"].pop("seconds"), "missing required field `seconds`"),
        (lambda raw: raw["labels"]["poison"]["pools"]["gm"]["spec"].pop("attack"), "`attack`"),
        (lambda raw: raw["outcomes"].update(test={"count": 9, "bits": "AA=="}), "bits of 9 values"),
    ],
)
def test_an_edited_record_is_refused(tmp_path, change, message):
    path = Store(tmp_path).write_record(targeted_run(True))
    edit(path, change)
    with pytest.raises(ArtefactError, match=message) as caught:
        read_record(path)
    assert f"{path}: expected " in str(caught.value)
    assert caught.value.exit_code == 65
    good = make_record()
    Store(tmp_path).write_record(good)
    # It is named and left out, and stops nothing.
    errors = []
    assert Store(tmp_path).records(errors.append) == [good]
    assert list(map(str, errors)) == [str(caught.value)]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": 1}', "[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ArtefactError):
        read_record(path)


def test_unreadable_records_are_reported_and_left_out(tmp_path):
    store = Store(tmp_path)
    good = make_record(trial=0)
    store.write_record(good)
    (tmp_path / "runs" / "ffff.json").write_bytes(b"\xff\xfe")
    errors = []
    assert store.records(errors.append) == [good]
    assert len(errors) == 1


def test_non_finite_metrics_are_not_written(tmp_path):
    record = changed(make_record(), metrics={"validation_accuracy": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        Store(tmp_path).write_record(record)
    assert not (tmp_path / "runs").exists()


def test_writing_leaves_nothing_but_the_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "é\n")
    write_text(path, "two\n")
    assert path.read_text(encoding="utf-8") == "two\n"
    assert os.listdir(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            write_text(path, "new")
    assert caught.value.exit_code == 73
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_interrupt_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_text(tmp_path / "file.txt", "new")
    assert os.listdir(tmp_path) == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("in the way")
    store = Store(tmp_path / "results")
    for write in (store.check_writable, lambda: store.write_record(make_record(trial=0))):
        with pytest.raises(StoreError, match="name another folder") as caught:
            write()
        assert caught.value.exit_code == 73


def test_check_writable_leaves_nothing(tmp_path):
    Store(tmp_path / "new").check_writable()
    assert os.listdir(tmp_path / "new") == []


def test_a_published_folder_stays_and_the_first_wins(tmp_path):
    target = tmp_path / "poisons" / "id"
    publish_folder(target, {"a": b"1"})
    publish_folder(target, {"a": b"2"})
    assert (target / "a").read_bytes() == b"1"
    assert os.listdir(target.parent) == ["id"]


@given(st.lists(st.booleans(), max_size=40))
def test_bits_come_back(bits):
    packed = json.loads(json.dumps(msgspec.to_builtins(Bits.pack(bits))))
    assert msgspec.convert(packed, Bits).unpack().tolist() == bits


@pytest.mark.parametrize(
    "packed",
    [{}, {"count": 9, "bits": "AA=="}, {"count": "8", "bits": "AA=="}, {"count": 8, "bits": "?"}],
)
def test_bits_that_are_none_are_refused(packed):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(packed, Bits)


def test_a_record_of_schema_1_is_read_as_one_of_today(tmp_path):
    path = Store(tmp_path).write_record(make_record(trial=0))
    edit(path, lambda raw: (raw.update(schema=1), raw.pop("outcomes"), raw.pop("seal")))
    assert read_record(path) == make_record(trial=0)


def test_a_record_by_another_name_is_a_copy_and_counts_once(tmp_path):
    store = Store(tmp_path)
    path = store.write_record(make_record())
    copy = path.with_name(f"{path.stem} (1).json")
    copy.write_bytes(path.read_bytes())
    errors = []
    assert [record.id for record in store.records(errors.append)] == [path.stem]
    assert f"{copy}: expected the name {path.name}" in str(errors[0])
    with pytest.raises(ArtefactError, match=r"1 file\(s\) cannot be submitted.*expected the name"):
        pack(store, "Ada")
