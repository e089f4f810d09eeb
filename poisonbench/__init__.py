"""poisonbench: a benchmark of data-poisoning attacks against defenses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "assess",
    "craft",
    "defend",
    "figure",
    "load_poison",
    "records",
    "register",
]

if TYPE_CHECKING:
    from poisonbench.api import assess, craft, defend, figure, load_poison, records, register
else:

    def __getattr__(name: str) -> Any:
        """A function of the API, imported when it is first used: the command line starts faster."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from poisonbench import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return __all__
