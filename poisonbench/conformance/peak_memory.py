"""The most bytes of tensors that a piece of code keeps at once, on the CPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object]) -> int:
    """Call a function; the most bytes of the tensors that it made and that were alive at once."""
    with _Meter() as meter:
        run()
    peak: int = meter.peak
    return peak


class _Meter(TorchDispatchMode):
    """Notes the storage of each operation's result, and looks who is alive when a peak may be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._total = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                known = self._alive.get(storage._cdata)
                if known is None or known[0].expired():
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self._total += storage.nbytes() - (known[1] if known else 0)
        if self._total > self.peak:
            self._alive = {key: row for key, row in self._alive.items() if not row[0].expired()}
            self._total = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._total)
        return result
