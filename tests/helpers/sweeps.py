"""Plans of sweeps and the records that their runs left, for tests of sweeps."""

from helpers.command_line import done
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.results.records import read_record
from poisonbench.sweep.plan import Job, make_plan


def job(number, kind="defend", method="hint", **fields):
    if kind == "defend":
        request = RunRequest(method=method, dataset="mnist", trial=number)
    else:
        poison = PoisonRequest(attacks=("pgd",), trial=number)
        request = CraftRequest(dataset="mnist", poison=poison)
    return Job(id=f"{number:016x}", request=request, title=f"{kind} {number}", **fields)


POISON = job(1, "craft", "pgd")
RUNS = [job(number, needs=(POISON.id,)) for number in range(2, 12)]
PLAN = make_plan([*RUNS, POISON, *RUNS])


def lines_of(tiny, methods=("none",), trials=2, attacks="durp", epochs=2, extra=""):
    return [
        f"poisonbench defend --method {method} --dataset {tiny} --attack {attacks} --rho 0.5 "
        f"--epochs {epochs} --trial {trial} {extra}"
        for method in methods
        for trial in range(trials)
    ]


def plan_of(lines, path):
    text = path.with_suffix(".txt")
    text.write_text("\n".join(lines))
    done("sweep", "plan", "--lines", text, "--json", "--output", path)
    return path


def records_of(results):
    paths = sorted((results / "runs").glob("[!.]*.json"))
    return [read_record(path) for path in paths if not path.name.endswith(".failed.json")]
