"""A run's kept network in plain PyTorch: its weights, and a file that builds it without us."""

import inspect
import io
import re
import shlex
from collections.abc import Iterator
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.splits import Dataset
from poisonbench.entries import shown_name
from poisonbench.models import adapted
from poisonbench.registry import find, is_outside, networks
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.runs.kept_models import DAMAGED, read_weights
from poisonbench.runs.trained_models import KEPT

WeightsForm = Literal["torch", "safetensors"]

_HEADER = '''"""The network of poisonbench's run {id}, in plain PyTorch.

    from network import load_network
    network = load_network()          # in eval mode, with the trained weights
    logits = network(images)          # pixels of [0, 1], normalisation is inside
"""

from pathlib import Path
'''

_NETWORK = '''

class Network(nn.Module):
    """Logits (B, {classes}) of images (B, {channels}, {height}, {width}) in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.features, width = build_features({channels}, {height}, {width})
        self.head = nn.Linear(width, {classes})
        self.register_buffer("mean", torch.zeros(1, {channels}, 1, 1))
        self.register_buffer("std", torch.ones(1, {channels}, 1, 1))

    def forward(self, images):
        """Normalise as in training, then features and head."""
        return self.head(self.features((images - self.mean) / self.std))


def load_network(path=Path(__file__).parent / "{file}"):
    """The network with its trained weights."""
    network = Network()
    network.load_state_dict({load})
    return network.eval()
'''

#: Behind the text of ``models/adapted.py``, by the library.
_LIBRARY = {
    "torchvision": '''

def build_features(channels, height, width):
    """The library's network, adapted to the images, without its last linear layer."""
    network = torchvision_network("{name}", (channels, height, width))
    path, head = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    replace_layer(network, path, nn.Identity())
    turn_off_chance(network)
    return network, head.in_features
''',
    "timm": '''

def build_features(channels, height, width):
    """The library's network, adapted to the images, without a head."""
    shape = (channels, height, width)
    network = timm_network("{name}", shape)
    turn_off_chance(network)
    return network, output_of(network, shape).shape[1]
''',
}

_README = """# The network of run {id}

{method} on {dataset}, test accuracy {accuracy}. `{file}` is its state dict, `network.py` the
network in plain PyTorch (no poisonbench needed), `record.json` the run's sealed record.

    import torch
    from network import load_network

    network = load_network()
    # Pixels of [0, 1]; normalisation is inside.
    images = torch.rand(2, {channels}, {height}, {width})
    print(network(images).argmax(1))

Classes, by label: {names}.
{needs}
The command that trained it:

    {command}
"""


def model_files(
    store: Store, record: RunRecord, dataset: Dataset, form: WeightsForm, command: str | None
) -> Iterator[tuple[str, bytes]]:
    """The files of a run's network, by name.

    Args:
        store: where the run kept its weights.
        record: the run's.
        dataset: what it was trained on.
        form: of the weights.
        command: what trained it; None where no command can say it.

    Raises:
        ArtefactError: no weights were kept, or they are damaged.
        UsageError: the network's source cannot be handed on.
    """
    path = store.model_path(record.id)
    try:
        weights = read_weights(path)
    except FileNotFoundError:
        added = shlex.join(["--save-model", "--results", str(store.root)])
        raise ArtefactError(
            f"{path}: expected the run's weights, got none, as it was run without --save-model; "
            f"run it again with it: {command or 'the command that made it'} {added}"
        ) from None
    except (OSError, *DAMAGED) as error:
        raise ArtefactError(
            f"{path}: expected a trained model, got {error}; delete it and run again"
        ) from None
    weights = {name: tensor for name, tensor in weights.items() if name != KEPT}
    if "head.weight" not in weights:
        raise ArtefactError(f"{path}: expected a classifier's weights, got another's; delete it")
    channels, height, width = dataset.image_shape
    file = "weights.pt" if form == "torch" else "weights.safetensors"
    about = {
        **{"id": record.id, "channels": channels, "height": height, "width": width, "file": file},
        "classes": len(weights["head.weight"]),
        "load": "torch.load(path, weights_only=True)" if form == "torch" else "load_file(path)",
    }
    needs = "torch" + (" and safetensors" if form == "safetensors" else "")
    library = record.spec.model.partition(":")[0]
    needs += f" and {library}" if library in ("torchvision", "timm") else ""
    imports = "\nimport torch\n" + (
        "from safetensors.torch import load_file\n" if form == "safetensors" else ""
    )
    source = _source(record.spec.model)
    yield file, _torch_bytes(weights) if form == "torch" else save(weights)
    yield (
        "network.py",
        (_HEADER.format(**about) + imports + source + _NETWORK.format(**about)).encode(),
    )
    yield "record.json", record.to_json().encode()
    readme = _README.format(
        **about,
        method=record.spec.method,
        dataset=shown_name(record.labels.dataset),
        accuracy=f"{100 * record.metrics.test_accuracy:.2f} %",
        names=", ".join(f"{label} {name}" for label, name in enumerate(dataset.class_names)),
        needs=f"It needs {needs}.\n",
        command=command or "(no command can say what its record says)",
    )
    yield "README.md", readme.encode()


def _source(name: str) -> str:
    """The lines of Python that build a network's features by ``build_features``."""
    library, _, rest = name.partition(":")
    if library in ("torchvision", "timm"):
        return _plain(inspect.getsource(adapted)) + _LIBRARY[library].format(name=rest)
    if is_outside(name):
        raise UsageError(
            f"--to: expected a network by name, got {name}, whose file is your own; its state dict "
            "is results/models/ID.safetensors: features.* load into what the file's function "
            "gives, head.* into the last layer"
        )
    entry = find("a model", networks(), name)
    module = entry.load()
    try:
        text = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise UsageError(f"model {name}: expected its source, got {error}") from None
    if ours := re.findall(r"^\s*(?:from|import) poisonbench\S*", text, re.MULTILINE):
        raise UsageError(
            f"model {name}: expected a module without imports of poisonbench, to hand on, got "
            f"{ours[0].strip()}; write the network with torch alone"
        )
    return f"\n{_plain(text)}\n\nbuild_features = {entry.builder}\n"


def _plain(text: str) -> str:
    """A module's text for below our header, where future imports may not stand."""
    text = re.sub(r"^from __future__ import .*\n", "", text, flags=re.MULTILINE)
    # A docstring there is of no use.
    return re.sub(r'\A\s*"""(.*?)"""\s*', _as_comment, text, flags=re.DOTALL)


def _as_comment(match: re.Match[str]) -> str:
    lines = match[1].strip().splitlines()
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"


def _torch_bytes(weights: dict[str, Tensor]) -> bytes:
    """A state dict as ``torch.load(weights_only=True)`` reads it."""
    stream = io.BytesIO()
    torch.save(weights, stream)
    return stream.getvalue()
