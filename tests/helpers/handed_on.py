"""A results folder whose parts are handed on: its poisons and runs, and ways to change them."""

import json
import zipfile

from helpers.command_line import cli, done, files_in
from poisonbench.data.artefacts import read_poison
from poisonbench.results.records import Bits, read_record
from poisonbench.specs import seal_of

#: An attack of each norm, a mix, one with a trigger and changed labels, and a targeted one.
ATTACKS = ("durp", "lsp", "ops", "cuda", "durp+ops", "badnets", "noise")


def poisons(results):
    return {"+".join(read_poison(p).card.attacks): p for p in (results / "poisons").iterdir()}


def records(results):
    paths = (results / "runs").glob("*.json")
    return {"clean" if (r := read_record(p)).spec.poison is None else "badnets": r for p in paths}


def exported(place, attack, form, folder):
    path = folder / (f"{attack}.npz" if form == "npz" else attack)
    done("export", poisons(place[0])[attack], "--to", form, "--output", path, "--quiet")
    return path


def bytes_of(folder):
    return {str(name): (folder / name).read_bytes() for name in files_in(folder)}


def edit_record(path, change):
    """Change a record's figures and seal it anew, as somebody who knows how would."""
    fields = json.loads(path.read_text())
    change(fields)
    fields["seal"] = seal_of(fields)
    path.write_text(json.dumps(fields))


def rezip(path, change):
    """The archive with its files changed by a function of a dict."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def verified(tmp_path, *words):
    return cli("verify", *words, "--scratch", tmp_path / "scratch", "--json")


def flip(fields):
    """Call two images wrong that were classified right, and say the accuracy of that."""
    bits = Bits(**fields["outcomes"]["test"])
    values = bits.unpack()
    values[values.nonzero()[0][:2]] = False
    fields["outcomes"]["test"]["bits"] = Bits.pack(values.tolist()).bits
    fields["metrics"]["test_accuracy"] = float(values.mean())
