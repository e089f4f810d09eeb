"""Files of trained models in the store, each model in them sealed like a checkpoint.

A file holds one model, or the states of one after several epochs, whose tensors begin with the
epoch and a dot. Each has a seal of its own, since one state is read without the others. A file from
before there were seals has none, and is taken as it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from poisonbench.core.canonical import canonical_json
from poisonbench.core.files import retried
from poisonbench.training.checkpoint import seal_of_tensors

#: What :func:`read_weights` raises of a damaged file.
DAMAGED = (SafetensorError, ValueError)


def model_bytes(
    model_id: str, weights: Mapping[str, Tensor], prefixes: Sequence[str] = ("",)
) -> bytes:
    """The file of a model, or of its states, whose tensors have these prefixes."""
    seals = {
        prefix: _seal(
            model_id, prefix, {key: weights[key] for key in weights if key.startswith(prefix)}
        )
        for prefix in prefixes
    }
    # One text: the library writes several in any order.
    return save(dict(weights), {"seals": canonical_json(seals)})


def read_weights(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of that prefix, without it; a file of many states is not read as a whole.

    Raises:
        OSError: the file is missing or cannot be read.
        SafetensorError, ValueError: damaged, or another model's.
    """
    seals, tensors = retried(path, lambda: _read(path, prefix))
    if seals is not None:
        seal = msgspec.json.decode(seals, type=dict[str, str]).get(prefix)
        if seal != _seal(path.stem, prefix, tensors):
            raise ValueError("other weights than were sealed, or another model's")
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def _read(path: Path, prefix: str) -> tuple[str | None, dict[str, Tensor]]:
    # Opened twice, as only the system's own error has the number by which a read is tried again.
    with path.open("rb"), safe_open(path, framework="pt") as file:
        seals = (file.metadata() or {}).get("seals")
        return seals, {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}


def _seal(model_id: str, prefix: str, tensors: Mapping[str, Tensor]) -> str:
    return seal_of_tensors(f"{model_id} {prefix}", tensors)
