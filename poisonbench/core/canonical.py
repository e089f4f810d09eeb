"""One text for one JSON value: what ids and seals are hashes of. No torch here."""

import hashlib
import json
from typing import Any

from msgspec import to_builtins


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is not JSON's.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def spec_id(spec: Any) -> str:
    """16 hex digits of the sha256 of the canonical spec: the name of a run, a poison or a plan."""
    return hashlib.sha256(canonical_json(to_builtins(spec)).encode()).hexdigest()[:16]
