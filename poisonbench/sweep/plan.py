"""A plan: which poisons and runs, in which order, in one file that never changes. No torch here.

A job is what to craft or to train, and an id that is known before anything has run. A
poison's id is its name in the store. A run's id hashes its spec with the names of the poisons that
it needs where its record will have the digest of what was crafted, so whether a run is done can be
read from the records alone, whoever made them.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import structs

from poisonbench import __version__
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import ArtefactError, StoreError, UsageError
from poisonbench.core.files import read_shared, retried, write_text
from poisonbench.requests import CraftRequest, Request, from_json, to_json
from poisonbench.results.records import ClaimLabel

#: 2: a job holds its request as a value.
SCHEMA = 2

#: A plan of a million jobs is smaller.
_MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing to do of a plan; the title is what a progress view shows.

    ``needs`` are ids of poisons that must be there first, ``after`` those of jobs to wait for,
    however they end: they make something that this one shares. Where that is a trained network,
    ``shares`` is its id in the store: once it is there, nothing is waited for.
    """

    id: str
    request: Request
    title: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    shares: str | None = None

    @property
    def kind(self) -> str:
        """The command that does it: "craft" or "defend"."""
        return "craft" if isinstance(self.request, CraftRequest) else "defend"

    @property
    def keeps_model(self) -> bool:
        """Whether the trained weights are a part of its result."""
        return not isinstance(self.request, CraftRequest) and self.request.save_model

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.request.dataset

    @property
    def method(self) -> str:
        """The defense's or the attack's name."""
        request = self.request
        return request.poison.text if isinstance(request, CraftRequest) else request.method

    def to_json(self) -> dict[str, Any]:
        """The job as plain JSON values."""
        plain = {**vars(self), "kind": self.kind, "request": to_json(self.request)}
        if self.shares is None:
            del plain["shares"]
        return {**plain, "needs": list(self.needs), "after": list(self.after)}


@dataclass(frozen=True)
class Plan:
    """Jobs, poisons before the runs that need them, and the digest that records repeat.

    ``plugins`` has by path the sha256 of each file of ``--plugin`` that the jobs need, ``claims``
    by id the declared claims that they were planned for; ``warnings`` are sentences on these.
    """

    jobs: tuple[Job, ...]
    digest: str
    plugins: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, ClaimLabel] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def job(self, job_id: str) -> Job:
        """The job of that id."""
        return self._by_id[job_id]

    @cached_property
    def _by_id(self) -> dict[str, Job]:
        return {job.id: job for job in self.jobs}

    def only(self, kind: str | None) -> tuple[Job, ...]:
        """The jobs of one kind, or all."""
        return tuple(job for job in self.jobs if kind in (None, job.kind))

    def shard(self, index: int, count: int, kind: str | None = None) -> tuple[Job, ...]:
        """Every ``count``-th run from the ``index``-th on, in order of id, and what they need.

        Ids are hashes, so the slow runs of a table are spread over the shards. Poisons that several
        shards need are in each of them: leases decide who crafts them.

        Raises:
            UsageError: an index outside 0..count-1.
        """
        if count < 1 or not 0 <= index < count:
            raise UsageError(f"--shard: expected i/n with 0 <= i < n, got {index}/{count}")
        main = kind or ("defend" if self.only("defend") else "craft")
        ids = set(sorted(job.id for job in self.only(main))[index::count])
        if kind is None:
            ids |= {name for job in self.jobs if job.id in ids for name in job.needs}
        return tuple(job for job in self.jobs if job.id in ids)

    def to_json(self) -> str:
        """The file's text: a line a job, so that two plans can be compared by eye."""
        lines = [json.dumps(job.to_json(), sort_keys=True) for job in self.jobs]
        facts = {"schema": SCHEMA, "poisonbench": __version__, "digest": self.digest}
        warnings = {"warnings": list(self.warnings)} if self.warnings else {}
        head = json.dumps(facts | _extras(self.plugins, self.claims) | warnings)
        return f'{head[:-1]}, "jobs": [\n' + ",\n".join(lines) + "\n]}\n"


def make_plan(
    jobs: Sequence[Job],
    plugins: Mapping[str, str] | None = None,
    claims: Mapping[str, ClaimLabel] | None = None,
) -> Plan:
    """A plan of these jobs, each id once, poisons first; what one of a run's jobs keeps is kept."""
    plugins, claims = plugins or {}, claims or {}
    once: dict[str, Job] = {}
    for job in jobs:
        if job.id not in once or job.keeps_model:
            once[job.id] = job
    ordered = tuple(sorted(once.values(), key=lambda job: job.kind != "craft"))
    return Plan(ordered, _digest(ordered, plugins, claims), plugins, claims)


def write_plan(plan: Plan, path: Path) -> None:
    """Publish a plan file; the same plan again is no change.

    Raises:
        UsageError: the file holds something else.
        StoreError: it cannot be written.
    """
    if path.exists():
        if path.read_text(encoding="utf-8") != plan.to_json():
            raise UsageError(
                f"expected a new file or the same plan, got another at {path}; a plan never "
                "changes, choose another name"
            )
        return
    write_text(path, plan.to_json())


def keep_plan(plan: Plan, folder: Path) -> None:
    """Leave a copy in a results folder, by which those who watch the folder know what is to come.

    The sweep needs none, so a folder that takes none stops nothing.

    Args:
        plan: what is about to be run.
        folder: that of kept plans.
    """
    with suppress(StoreError):
        write_text(folder / f"{plan.digest[:16]}.json", plan.to_json())


def read_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        ArtefactError: unreadable, edited, or not a plan.
    """
    try:
        # Of a plan that another machine has just written, a task may not see the file yet.
        size = retried(path, path.stat).st_size
        if size > _MAX_BYTES:
            raise ValueError(f"{size} bytes")
        raw = json.loads(read_shared(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ArtefactError(
            f"{path}: expected a plan in JSON, got {what}; make it with "
            "`poisonbench sweep plan --table 2 --json --output PLAN`"
        ) from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        schema = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise ArtefactError(
            f"{path}: expected a plan of schema {SCHEMA}, got {schema}; plan again with this "
            "version of poisonbench: what is done stays done"
        )
    try:
        file = msgspec.convert(raw, _File)
        jobs = tuple(line.job() for line in file.jobs)
    except (ValueError, UsageError) as error:
        raise ArtefactError(
            f"{path}: expected a plan's fields and sound jobs, got a fault: {error}"
        ) from None
    if file.digest != (digest := _digest(jobs, file.plugins, file.claims)):
        raise ArtefactError(
            f"{path}: expected jobs with digest {file.digest}, got {digest}; the file was "
            "edited, make another plan instead"
        )
    ids: set[str] = set()
    for job in jobs:
        if job.id in ids or not {*job.needs, *job.after} <= ids:
            raise ArtefactError(
                f"{path}: expected each job once, behind the jobs that it needs, got {job.id}"
            )
        ids.add(job.id)
    return Plan(jobs, digest, file.plugins, file.claims, file.warnings)


def _extras(plugins: Mapping[str, str], claims: Mapping[str, ClaimLabel]) -> dict[str, Any]:
    """What a plan's file has only where there is some."""
    extras = {"plugins": dict(plugins), "claims": msgspec.to_builtins(claims)}
    return {name: values for name, values in extras.items() if values}


def _digest(
    jobs: Sequence[Job], plugins: Mapping[str, str], claims: Mapping[str, ClaimLabel]
) -> str:
    return spec_id([*(job.to_json() for job in jobs), *_extras(plugins, claims).values()])


#: An id becomes a file name.
_Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A job as a plan's file has it."""

    id: _Id
    kind: Literal["craft", "defend"]
    request: dict[str, Any]
    title: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    shares: _Id | None = None

    def job(self) -> Job:
        """The job."""
        fields = structs.asdict(self) | {"request": from_json(self.kind, self.request)}
        del fields["kind"]
        return Job(**fields)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A plan's file."""

    schema: int
    poisonbench: str
    digest: str
    jobs: list[_Line]
    plugins: dict[str, str] = {}
    claims: dict[str, ClaimLabel] = {}
    warnings: tuple[str, ...] = ()
