"""One text for one JSON value: what ids and seals are hashes of. No torch here."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is not JSON's.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
