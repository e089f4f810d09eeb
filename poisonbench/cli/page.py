"""``poisonbench page``: results folders as one offline file, or served while they grow."""

from dataclasses import dataclass
from pathlib import Path

from poisonbench.cli import common
from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_text
from poisonbench.core.folders import DEFAULT_DATA_ROOT, results_folder
from poisonbench.results.submissions import SUFFIX

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _PageOptions:
    results: list[Path] | None = common.option(
        None,
        "Folder of poisons and run records, a submission, or a folder of submissions; may be "
        "repeated.",
        metavar="PATH",
    )
    output: Path | None = common.option(None, "The file to write; page.html here if not said.")
    serve: bool = common.option(
        False, "Instead: serve the page to this machine alone, and refresh it as results come."
    )
    plan: list[Path] | None = common.option(
        None,
        "With --serve: a plan whose progress to show; may be repeated. Those that lie in the "
        "folder, or that a sweep ran into it, are shown without.",
        metavar="PLAN",
    )
    port: int | None = common.option(
        None, "Port of --serve; a free one if not said, or 0.", min=0, max=65535
    )
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    plugin: common.PluginOption = None
    json: common.JsonOption = False
    quiet: common.QuietOption = False


@app.command("page", cls=common.Command)
@common.takes(_PageOptions)
def page(options: _PageOptions) -> None:
    """Write all results as one page that works offline: tables, runs, poisons, figures.

    poisonbench page --results results --output page.html
    """
    _check_options(options)
    folders = options.results or [results_folder()]
    for folder in folders:
        if options.serve and folder.is_file():
            raise UsageError(
                f"--results: expected folders with --serve, got the file {folder}, which does not "
                "grow; leave --serve out"
            )
        if not folder.is_dir() and not (folder.is_file() and folder.name.endswith(SUFFIX)):
            raise UsageError(
                f"--results: expected a folder of results, got {folder}, which is none; make some "
                "with `poisonbench defend` or choose another"
            )
    if options.serve:
        from poisonbench.page.serve import Watched, serve
        from poisonbench.sweep.plan import read_plan

        plans = options.plan or []
        for path in plans:
            read_plan(path)
        watched = Watched(folders, options.data_root, plans)
        serve(watched, options.port or 0, lambda text: common.say(text))
        return
    from poisonbench.page.document import build_page

    built = build_page(folders, options.data_root)
    for name in built.damaged:
        common.say(f"warning: left out: {name} cannot be read; the page says why")
    passed_over = [str(one) for one in built.passed_over]
    for sentence in passed_over:
        common.say(f"warning: passed over: {sentence}")
    common.say(f"{built.records} run(s)", quiet=options.quiet)
    output = options.output or Path("page.html")
    write_text(output, built.text)
    result = {"path": str(output), "runs": built.records, "damaged": list(built.damaged)}
    result["passed_over"] = passed_over
    common.show(result, [str(output)], options.json)


def _check_options(options: _PageOptions) -> None:
    """Refuse options that have no effect, with --serve or without."""
    of_serving = {"--plan": options.plan, "--port": options.port}
    of_writing = {"--output": options.output, "--json": options.json or None}
    others = of_writing if options.serve else of_serving
    if given := [flag for flag, value in others.items() if value is not None]:
        flag = ", ".join(given)
        if options.serve:
            raise UsageError(f"expected --serve without {flag}; leave one of them out")
        raise UsageError(f"expected {flag} with --serve, got it alone; leave it out")
    common.check_output(options.output)
