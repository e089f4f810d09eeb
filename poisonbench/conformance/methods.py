"""What attacks and defenses have in common: options, their code's reach, devices, time, memory."""

import ast
import inspect
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from poisonbench.conformance.check import ConformanceError, expect, line_in
from poisonbench.conformance.peak_memory import peak_bytes
from poisonbench.conformance.problem import CPU, train_plainly
from poisonbench.core.errors import UsageError, one_line
from poisonbench.core.settings import check_table, options_of
from poisonbench.entries import Entry, profiles_of, recipe_changes
from poisonbench.training.recipe import Recipe

# PyTorch counts devices when it first goes backward, so this one is made here.
pretended_device: ModuleType | None
try:
    from poisonbench.conformance import pretended_device
except ImportError:
    pretended_device = None

#: Settings that are numbers of repetitions, and the few that a check needs.
REPETITIONS = dict.fromkeys(
    (
        *("steps", "restarts", "surrogates", "rounds", "epochs_per_round", "batches", "draws"),
        *("noise_steps", "adversary_steps"),
    ),
    2,
) | {"retrainings": 1}
#: A method that takes as many times longer than plain training is reported.
SLOWEST = 200
#: Seconds that it may take beyond them.
GRACE = 5
#: One whose tensors take as many times more bytes at once than plain training's is, too.
LARGEST = 16
#: Parts of the package from which test images, poisons' rows or other runs can be had.
OUT_OF_REACH = (
    *("poisonbench.runs", "poisonbench.api", "poisonbench.results", "poisonbench.sweep"),
    *("poisonbench.tables", "poisonbench.cli", "poisonbench.data.sources"),
    *("poisonbench.data.artefacts", "poisonbench.data.sample", "poisonbench.data.standard"),
)
#: Names with which one looks into the caller's variables.
INSPECTION = {"_getframe", "currentframe", "get_objects", "get_referrers", "stack", "f_back"}


def short_config(entry: Entry, module: ModuleType, settings: Mapping[str, Any]) -> Any:
    """A method's config with few repetitions in float32, where the settings do not say more.

    Which devices round to bfloat16 differs, and a sign of a gradient turns a last bit into a step.

    Raises:
        UsageError: a setting that it lacks or refuses.
    """
    config = module.Config()
    few: dict[str, Any] = {
        name: count
        for name, count in REPETITIONS.items()
        if isinstance(value := getattr(config, name, None), int) and value > count
    }
    if hasattr(config, "precision"):
        few["precision"] = "float32"
    config = replace(config, **{name: few[name] for name in few if name not in settings})
    try:
        return replace(config, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{entry.name}: {error}") from None


def finite_json(value: Any, where: str) -> None:
    """Raise ConformanceError for what JSON cannot hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConformanceError(
            f"expected finite JSON values in {where}, got {value!r:.80} ({error}); note finite "
            "numbers as Python's, by float() or int()"
        ) from None


@cache
def plain_peak() -> int:
    """Plain training's peak of bytes of tensors, the same each time."""
    return peak_bytes(lambda: train_plainly(CPU))


class MethodChecks(ABC):
    """What attacks and defenses have in common: options, and what their code reaches."""

    def __init__(self, entry: Entry, module: ModuleType, config: Any) -> None:
        self._entry, self._module, self._build_config = entry, module, config

    @abstractmethod
    def _once(self, device: torch.device) -> list[Tensor]:
        """Run the method on a device; what it gives."""

    @property
    @abstractmethod
    def _result(self) -> list[Tensor]:
        """What a run on the CPU gave, which several checks compare with."""

    def options(self) -> None:
        """Each setting has a help text, and each number bounds; tables set what there is."""
        tables = (
            ("PROFILES", profiles_of(self._module), self._module.Config),
            ("RECIPE_CHANGES", recipe_changes(self._module), Recipe),
        )
        for table, profiles, config in tables:
            for profile, by_preset in profiles.items():
                for preset, settings in by_preset.items():
                    try:
                        check_table(settings, config, f"{table}[{profile!r}][{preset!r}]")
                    except UsageError as error:
                        raise ConformanceError(f"{error}; mend it") from None
        for field, option in zip(
            fields(self._module.Config), options_of(self._module.Config), strict=True
        ):
            expect(
                bool(option.help),
                f"a help text of {option.name}",
                "none",
                'declare it as setting(default, "What it is.", low=...)',
            )
            kinds = {option.kind, *get_args(option.kind)}
            bounds = field.metadata.get("bounds")
            expect(
                not kinds & {int, float}
                or (bounds is not None and str(bounds) != "")
                or self._refuses(option.name),
                f"bounds of the number {option.name}",
                "none",
                "give setting(...) low, over, high or under",
            )
        assert is_dataclass(self._module.Config)

    def _refuses(self, name: str) -> bool:
        """Whether the config has a check of its own, which refuses a number far below all."""
        try:
            replace(self._build_config, **{name: -(10**9)})
        except ValueError:
            return True
        return False

    def test_split_and_poison_rows_out_of_reach(self) -> None:
        """The code neither reads data, poisons or records nor looks into its callers."""
        for node in ast.walk(ast.parse(inspect.getsource(self._module))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and node.attr in INSPECTION:
                names = ["frames"] if node.attr != "stack" else []
            reached = [name for name in names if name == "frames" or name.startswith(OUT_OF_REACH)]
            expect(
                not reached,
                "code that sees what the state or task holds",
                f"{', '.join(reached)} in line {getattr(node, 'lineno', '?')}",
                "take images from the state or task alone",
            )

    def runs_on_an_accelerator(self) -> None:
        """It runs on a pretended accelerator and gives the bytes that it gives on a CPU."""
        if pretended_device is None:
            return
        device = pretended_device.GPU
        expected = self._result
        remedy = "make tensors with device=images.device, and send draws there"
        with pretended_device.pretended_gpu():
            try:
                got = [tensor.cpu() for tensor in self._once(device)]
            except (RuntimeError, TypeError) as error:
                if "device_ready_queues_" in str(error):
                    raise UsageError(
                        "expected poisonbench.conformance to be imported before anything is "
                        "trained, as PyTorch counts its devices then; start a process anew"
                    ) from None
                line = line_in(self._module, error)
                where = f"mend {line}: " if line else ""
                raise ConformanceError(
                    f"expected a run on an accelerator, got {one_line(error)}; {where}{remedy}"
                ) from None
        expect(
            all(map(torch.equal, expected, got)),
            "the same bytes on a pretended accelerator as on the CPU",
            "others",
            "draw from a CPU generator and send what was drawn",
        )

    def peak_memory(self) -> None:
        """The tensors that are alive at once take no more than a multiple of plain training's."""
        plain = plain_peak()
        peak = peak_bytes(lambda: self._once(CPU))
        expect(
            peak <= LARGEST * plain,
            f"at most {LARGEST} times plain training's peak of {plain:,} bytes of tensors",
            f"{peak:,}",
            "pass fewer images at once, detach what is kept, and keep no graph between steps",
        )

    def speed(self) -> None:
        """The time beside plain training's of three epochs on the same images."""
        # Whatever is done once a process is done here.
        train_plainly(CPU)
        start = time.process_time()
        train_plainly(CPU)
        plain = time.process_time() - start
        self._once(CPU)
        seconds = time.process_time() - start - plain
        expect(
            seconds <= SLOWEST * plain + GRACE,
            f"at most {SLOWEST} times plain training's {plain:.2f} s and {GRACE} s",
            f"{seconds:.1f} s",
            "pass many images at once and index tensors instead of looping over images",
        )
