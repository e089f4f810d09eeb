"""The devices that costs are estimated for: one table, with its sources."""

from dataclasses import dataclass

#: Share of a device's peak arithmetic and of its memory's bandwidth that an operator is taken to
#: reach, and seconds that Python and the driver need for one. The first and the last are
#: calibrated on one H100 by trainings of two networks (docs/benchmarks.md), the bandwidth's share
#: is assumed. `poisonbench doctor --device cuda` says how far they are from another GPU's.
FLOPS_UTILISATION, BANDWIDTH_UTILISATION, SECONDS_AN_OPERATOR = 0.4, 0.7, 3e-5

#: Bytes that CUDA and its libraries take of a device's memory before any tensor.
OVERHEAD = 2**30


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What a device is sold as.

    Attributes:
        float32: operations a second, without TF32, which stays off.
        bfloat16: the same of dense products in bfloat16; None where there are none.
        bandwidth: bytes a second of its memory.
        memory: bytes.
    """

    float32: float
    bfloat16: float | None
    bandwidth: float
    memory: float
    source: str

    def seconds(self, operators: list[tuple[float, float]], precision: str) -> float:
        """How long operators of these FLOPs and bytes in float32 take, one after the other.

        Each takes the longest of its arithmetic, its traffic and its launch.
        """
        is_short = precision != "float32" and self.bfloat16 is not None
        peak = self.bfloat16 if is_short and self.bfloat16 else self.float32
        rate, traffic = peak * FLOPS_UTILISATION, self.bandwidth * BANDWIDTH_UTILISATION
        share = 0.5 if is_short else 1.0
        return sum(
            max(flops / rate, share * moved / traffic, SECONDS_AN_OPERATOR)
            for flops, moved in operators
        )

    def fits(self, memory: float) -> bool:
        """Whether a job that needs so many bytes runs on it."""
        return memory <= self.memory


#: By what ``--on`` calls them; 1 TB is 10^12 bytes, as the makers count.
ACCELERATORS = {
    "h100": Accelerator(
        float32=67e12,
        bfloat16=989e12,
        bandwidth=3.35e12,
        memory=80e9,
        source="NVIDIA H100 Tensor Core GPU data sheet, SXM5 (dense: half of the sparse figure)",
    ),
    "h200": Accelerator(
        float32=67e12,
        bfloat16=989e12,
        bandwidth=4.8e12,
        memory=141e9,
        source="NVIDIA H200 Tensor Core GPU data sheet, SXM (dense: half of the sparse figure)",
    ),
    "a100": Accelerator(
        float32=19.5e12,
        bfloat16=312e12,
        bandwidth=2.039e12,
        memory=80e9,
        source="NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB",
    ),
    "v100": Accelerator(
        float32=15.7e12,
        bfloat16=None,
        bandwidth=0.9e12,
        memory=32e9,
        source="NVIDIA V100 Tensor Core GPU data sheet, SXM2 32 GB",
    ),
}

#: The machine that the command runs on, calibrated by short measured passes.
THIS_CPU = "cpu"
