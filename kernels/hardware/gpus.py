"""What is known of GPUs, each figure once: what compiles, models, times or picks a tile asks here.

    seconds ≥ max(FLOPs / peak, bytes / bandwidth)
    attainable FLOP/s = min(peak, intensity × bandwidth)      intensity = FLOPs / bytes

(the roofline: Williams, Waterman and Patterson 2009, CACM 52(4)). Figures are the makers' published
ones: the data sheets of NVIDIA A100 80 GB SXM, H100 SXM, H200, B200, GeForce RTX 4090 and AMD
MI300X; "NVIDIA H100 Tensor Core GPU Architecture" (2022), table 3; CUDA C programming guide, table
"technical specifications per compute capability"; "AMD Instinct MI300" instruction set
architecture, 2.2.

Not covered: the clock that a machine keeps, and other GPUs: of those no roof is known.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Roof:
    """What bounds any kernel: dense bfloat16 `flops` a second, `bandwidth` in bytes a second."""

    flops: float
    bandwidth: float

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least that so much work takes."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on arithmetic is the bound."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """FLOP/s at an intensity in FLOP per byte."""
        return min(self.flops, intensity * self.bandwidth)


@dataclass(frozen=True)
class Gpu(Roof):
    """A target that kernels are compiled for.

    `backend`, `architecture` and `warp` (threads) as Triton's GPUTarget takes them. `vector`:
    integer and float32 operations a second outside the matrix units, a fused multiply-add counted
    once. `l2`: bytes (AMD: of the Infinity Cache behind it). `units`: multiprocessors (AMD: compute
    units). `shared`: bytes of shared memory (AMD: LDS) that one program may use.
    """

    backend: str
    architecture: int | str
    warp: int
    vector: float
    l2: int
    units: int
    shared: int


# of the modelled target's multiprocessor; each program on it takes up the reserved bytes too
REGISTERS, THREADS, SHARED, SHARED_RESERVED = 65536, 2048, 228 << 10, 1 << 10
TARGETS: dict[str, Gpu] = {
    "sm_80": Gpu(312e12, 2.039e12, "cuda", 80, 32, 9.75e12, 40 << 20, 108, 163 << 10),
    "sm_90": Gpu(989e12, 3.35e12, "cuda", 90, 32, 33.5e12, 50 << 20, 132, SHARED - SHARED_RESERVED),
    "sm_100": Gpu(2250e12, 8.0e12, "cuda", 100, 32, 37.5e12, 126 << 20, 148, 227 << 10),
    "gfx942": Gpu(1307.4e12, 5.3e12, "hip", "gfx942", 64, 81.7e12, 256 << 20, 304, 64 << 10),
}
MODELLED = "sm_90"  # the target whose memory is modelled, and that stands in where there is no GPU
# name in the device's name -> its roof
PRODUCTS: dict[str, Roof] = {
    "H200": Roof(TARGETS["sm_90"].flops, 4.8e12),
    "H100": TARGETS["sm_90"],
    "A100": TARGETS["sm_80"],
    "RTX 4090": Roof(165.2e12, 1.008e12),
    "MI300X": TARGETS["gfx942"],
}
SECTOR = 32  # bytes that memory and the L2 move at least
LAUNCH = 3e-6  # seconds from one kernel to the next


def nvidia_target(major: int) -> str:
    """The target for a GPU of compute capability `major`.x: the nearest that there is."""
    return {8: "sm_80", 9: "sm_90"}.get(major, "sm_100" if major >= 10 else "sm_80")


def resident(registers: int, shared: int, warps: int) -> int:
    """Programs that a multiprocessor of the modelled target holds at once, one at least.

    `registers` of a thread (given out by eights), `shared` bytes and `warps` of a program.
    """
    threads = TARGETS[MODELLED].warp * warps
    by_registers = REGISTERS // (-(-max(registers, 1) // 8) * 8 * threads)
    by_shared = SHARED // (shared + SHARED_RESERVED)
    return max(1, min(by_registers, by_shared, THREADS // threads))
