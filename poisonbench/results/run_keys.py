"""A run's name as far as it is known before its poison is crafted. No torch here.

A record's id holds the digest of the poison's images. The key names a crafted poison by its pools
instead, so that a record can be found without crafting anything.
"""

from collections.abc import Mapping

import msgspec
from msgspec import structs

from poisonbench.core.canonical import spec_id
from poisonbench.results.records import RunRecord
from poisonbench.specs import RunSpec


def run_key(spec: RunSpec, pools: Mapping[str, str]) -> str:
    """A run's id in plans: of its spec, a crafted poison named by the pools that it is drawn from.

    The spec is a record's, or what is known of it before the poison is crafted. The pools are the
    ids of poisons by attack; there are none for a clean run or an artefact that was given.
    """
    # A drawn target and a trigger's images follow from the rest, and are not known before.
    known = msgspec.to_builtins(structs.replace(spec, goal=None, trigger=None))
    if pools and spec.poison is not None:
        poison = msgspec.to_builtins(structs.replace(spec.poison, digest=None))
        known["poison"] = {**poison, "pools": dict(pools)}
    return spec_id(known)


def record_key(record: RunRecord) -> str:
    """:func:`run_key` of a finished run."""
    origin = record.labels.poison
    pools = {} if origin is None else origin.pools
    return run_key(record.spec, {attack: pool.id for attack, pool in pools.items()})
