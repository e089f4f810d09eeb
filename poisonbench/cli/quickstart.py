"""``poisonbench quickstart``: the first look, from nothing to a page."""

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli import common
from poisonbench.cli.answers import answer, stdout
from poisonbench.core.files import write_text

app = common.command_app()


@app.command("quickstart", cls=common.Command)
def quickstart(
    results: common.ResultsOption = Path("results/quickstart"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 2,
    lines: Annotated[
        bool, typer.Option("--lines", help="Print the command lines of the runs; runs nothing.")
    ] = False,
) -> None:
    """Poison the embedded sample, train with six defenses, say what came out and make a page.

    Two to four minutes on two CPU cores; nothing is downloaded. Stopped, the same command goes on.
    """
    from poisonbench.cli.main import main

    text = resources.files("poisonbench").joinpath("quickstart.txt").read_text(encoding="utf-8")
    if lines:
        answer(text, end="")
        return
    listed, plan = results / "quickstart.txt", results / "plan.json"
    write_text(listed, text)
    # A plan is never written over.
    plan.unlink(missing_ok=True)
    folder = ["--results", str(results)]
    half = ["--dataset", "mnist-sample@5000", *folder]
    for words in (
        ["sweep", "plan", "--lines", str(listed), "--json", "--output", str(plan), *folder],
        ["sweep", "run", str(plan), "--jobs", str(jobs), "--estimate", *folder],
        ["report", "--runs", *half],
        ["report", "--summary", *half],
        ["page", *folder, "--output", str(results / "page.html")],
    ):
        common.say(f"$ poisonbench {shlex.join(words)}")
        stdout().flush()
        if code := main(words):
            raise typer.Exit(code)
