"""From requests, or lines such as ``poisonbench defend --method hint``, to the jobs of a plan."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.cli.request_words import from_words
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.entries import shown_name
from poisonbench.registry import forgetting, plugin_files
from poisonbench.requests import CraftRequest, Request, RunRequest
from poisonbench.results.records import ClaimLabel
from poisonbench.results.store import Store
from poisonbench.sweep.plan import Job, Plan, make_plan

if TYPE_CHECKING:
    from poisonbench.runs.context import RunContext
    from poisonbench.runs.poison import ResolvedPoison


def plan_lines(lines: Iterable[str], data_root: Path) -> Plan:
    """A plan of lines of ``poisonbench defend`` and ``craft``, with the poisons that they need.

    Of a craft line for several attacks, or for a share of the images, the poisons of all images
    are planned: the mix is drawn from them by the runs that train on it. Job ids depend on the
    contents of the data sets. The error of a line that its command would refuse names it.
    """
    planner = _Planner(data_root)
    # The lines' own plug-ins.
    with forgetting():
        for number, line in enumerate(lines, 1):
            try:
                words = _words(line)
                for request in from_words(words) if words else ():
                    planner.add(request)
            except UsageError as error:
                raise UsageError(f"line {number}: {error}") from None
        return make_plan(planner.jobs, plugin_files())


def plan_requests(
    requests: Iterable[Request],
    data_root: Path,
    claims: Mapping[str, ClaimLabel] | None = None,
    on_refusal: Callable[[Request, UsageError], None] | None = None,
) -> Plan:
    """A plan of these requests for claims, with the poisons needed; see :func:`plan_lines`.

    A request that does not fit its data is an error, or left out where ``on_refusal`` is told.
    """
    planner = _Planner(data_root)
    for request in requests:
        try:
            planner.add(request)
        except UsageError as error:
            if on_refusal is None:
                raise
            on_refusal(request, error)
    return make_plan(planner.jobs, plugin_files(), claims)


def _words(line: str) -> list[str]:
    """A line's words after the program's name; none of an empty one."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"expected a shell command, got {error}") from None
    if words and (
        words[0].rpartition("/")[2] != "poisonbench" or words[1:2] not in (["craft"], ["defend"])
    ):
        raise UsageError(
            f"expected poisonbench defend ... or craft ..., got {' '.join(words[:2])!r}"
        )
    return words[1:]


class _Planner:
    """Reads requests as their commands do, each data set once; nothing is crafted or trained."""

    def __init__(self, data_root: Path) -> None:
        import torch

        from poisonbench.runs.context import RunContext

        self.jobs: list[Job] = []
        # The store is never touched.
        self._context = RunContext(Store(Path("results")), data_root, torch.device("cpu"))
        self._makers: dict[str, str] = {}

    def add(self, request: Request) -> None:
        """The poisons and the run of one request."""
        from poisonbench.runs.poison import resolve_crafting

        context = self._context.seeded(request.seed)
        if isinstance(request, RunRequest):
            self._add_run(context, request)
            return
        dataset = context.dataset(request.dataset)
        self._add_pools(request, resolve_crafting(context, dataset, request.poison))

    def _add_run(self, context: "RunContext", request: RunRequest) -> None:
        from poisonbench.runs.defend import resolve_run

        run = resolve_run(context, request)
        needs = self._add_pools(request, run.poison) if run.poison.rho else {}
        spec = run.spec.poison
        if request.poison.path is not None:
            poison = str(request.poison.path)
        else:
            poison = f"{request.poison.text} at rho {spec.rho:g}" if spec else "clean"
        title = f"{request.method} {shown_name(request.dataset)} {poison} trial {request.trial}"
        self.jobs.append(Job(id=run.key, request=request, title=title, needs=tuple(needs.values())))

    def _add_pools(self, request: Request, poison: "ResolvedPoison") -> dict[str, str]:
        """The jobs that craft a poison's pools; their ids by attack."""
        ids = {}
        for name, pool_request in poison.request.pools().items():
            pool = poison.pools[name]
            trial = pool.spec.trial
            craft = CraftRequest(dataset=request.dataset, poison=pool_request, seed=request.seed)
            title = f"poison {name} {shown_name(request.dataset)}" + (
                f" trial {trial}" if trial else ""
            )
            job = Job(id=pool.id, request=craft, title=title)
            if pool.spec.surrogate is not None:
                # Of all attacks on one surrogate the first trains it, and the others wait for it.
                surrogate = spec_id(pool.spec.surrogate)
                maker = self._makers.setdefault(surrogate, job.id)
                if maker != job.id:
                    # A targeted attack's may be one of several networks.
                    shares = surrogate if poison.targeting is None else None
                    job = replace(job, after=(maker,), shares=shares)
            self.jobs.append(job)
            ids[name] = job.id
        return ids
