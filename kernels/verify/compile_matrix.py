"""Every kernel compiled for each target without a GPU, and a look at what the compiler made of it.

    kernels × constants × TARGETS → registers, spills, shared memory, matrix instructions,
                                    approximate divisions and fused multiply-adds

What an interpreter cannot show is here: that `tl.dot` became matrix instructions, that nothing
spills, that a kernel whose bytes are promised holds no approximate division and no contracted FMA.
`faults` is the gate; hardware/assembly.py reads the code.

One process cannot both interpret and compile, so `compile_all` starts this module as workers, and
a compiler that hangs or crashes is one fault, not the end.

Compiled is what ships at common shapes: pointers and all 32-bit sizes divisible by 16. Results are
kept by Triton's own cache (TRITON_CACHE_DIR).

Not covered: sizes not divisible by 16 (narrower loads, fewer pipeline stages); run time.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trivet.kernels.hardware import assembly, gpus
from trivet.kernels.hardware.gpus import TARGETS
from trivet.kernels.ops.kernel import Kernel, Tile
from trivet.kernels.verify import cases

WORKER = "trivet.kernels.verify.compile_matrix"
SECONDS = 120.0  # a compile that takes longer is given up; the slowest measured took 9


@dataclass(frozen=True)
class Compiled:
    """One kernel, one variant of its constants, one target. `failure`: why there is no code."""

    kernel: str
    variant: str
    target: str
    tile: str
    matmul: bool
    exact: bool
    most_registers: int
    registers: int = 0
    spills: int = 0  # instructions on NVIDIA, registers on AMD
    spill_bytes: int = 0
    shared: int = 0
    matrix: int = 0
    approximate: int = 0
    fused: int = 0
    warps: int = 0
    seconds: float = 0.0
    failure: str = ""

    @property
    def name(self) -> str:
        return f"{self.kernel} [{self.variant}] at {self.tile} on {self.target}"

    @property
    def resident(self) -> int:
        """Programs that a multiprocessor of the modelled target holds at once."""
        return gpus.resident(self.registers, self.shared, self.warps)


@dataclass(frozen=True)
class Job:
    kernel: Kernel
    constants: Mapping[str, Any]
    target: str

    def start(self) -> Compiled:
        """What is known before compiling."""
        tile = self.kernel.tile(self.target)
        return Compiled(
            kernel=self.kernel.name,
            variant=" ".join(f"{k}={v}" for k, v in self.constants.items()),
            target=self.target,
            tile=describe(tile),
            matmul=self.kernel.matmul,
            exact=self.kernel.exact,
            most_registers=self.kernel.registers,
            warps=tile.warps,
        )


def describe(tile: Tile) -> str:
    """A tile in one line; with the kernel's name it tells kernels apart that share a function."""
    sizes = " ".join(f"{k}={v}" for k, v in tile.sizes.items())
    return f"{sizes} warps={tile.warps} stages={tile.stages}"


def jobs(module: str | None = None) -> list[Job]:
    """The compile matrix of every operator, or of the list KERNELS in `module`."""
    if module:
        kernels = list(importlib.import_module(module).KERNELS)
    else:
        kernels = list({id(k): k for op in cases.ops() for k in op.kernels}.values())
    return [Job(k, c, t) for k in kernels for c in k.constants for t in TARGETS]


def faults(compiled: Compiled) -> list[str]:
    """What the gate says against it, one sentence each; empty when it may ship."""
    c, gpu = compiled, TARGETS[compiled.target]
    if c.failure:
        return [f"{c.name} does not compile: {c.failure}"]
    objections = {
        # ptxas keeps a stack that it does not use for nf4_quantise: there only instructions count
        f"spills ({c.spills}, {c.spill_bytes} bytes)": (
            c.spills or (c.spill_bytes and gpu.backend == "hip")
        ),
        f"uses {c.registers} registers, at most {c.most_registers} are allowed": (
            c.target in ("sm_80", "sm_90") and c.registers > c.most_registers
        ),
        f"uses {c.shared} bytes of shared memory, {gpu.shared} are there": c.shared > gpu.shared,
        "multiplies without matrix instructions": c.matmul and not c.matrix,
        f"divides or takes roots approximately ({c.approximate})": c.exact and c.approximate,
        f"has fused multiply-adds ({c.fused})": c.exact and c.fused,
    }
    return [f"{c.name} {what}" for what, is_so in objections.items() if is_so]


def compile_all(
    processes: int = 2,
    kernels: Collection[str] | None = None,
    targets: Collection[str] = tuple(TARGETS),
    module: str | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
    seconds: float = SECONDS,
) -> list[Compiled]:
    """The whole matrix, or that of `kernels` by name and `targets`, in worker processes.

    `on_progress` hears the share that is done. A compile that fails, crashes or takes more than
    `seconds` comes back with `failure` set.
    """
    todo = {
        i: job
        for i, job in enumerate(jobs(module))
        if job.target in targets and (not kernels or job.kernel.name in kernels)
    }
    done: dict[int, Compiled] = {}

    def work(share: list[int]) -> None:
        while share:
            process, log = _worker(share, module)
            watch = _Watch(process, seconds)
            for line in process.stdout or ():
                watch.rest()
                done[share.pop(0)] = Compiled(**json.loads(line))
                on_progress(len(done) / len(todo))
            process.wait()
            watch.stop()
            if share:  # it ended early: the job at hand is to blame
                why = f"took more than {seconds:g} s" if watch.expired else _tail(log)
                first = share.pop(0)
                done[first] = dataclasses.replace(todo[first].start(), failure=why)
            log.unlink()

    with ThreadPoolExecutor(processes) as pool:
        order = list(todo)
        list(pool.map(work, [order[i::processes] for i in range(processes)]))
    return [done[i] for i in todo]


class _Watch:
    """Kills a worker from which nothing was heard for too long."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.process, self.seconds, self.expired = process, seconds, False
        self.start()

    def start(self) -> None:
        self.timer = threading.Timer(self.seconds, self._expire)
        self.timer.daemon = True
        self.timer.start()

    def stop(self) -> None:
        self.timer.cancel()

    def rest(self) -> None:
        self.stop()
        self.start()

    def _expire(self) -> None:
        self.expired = True
        self.process.kill()


def _worker(share: list[int], module: str | None) -> tuple[subprocess.Popen[str], Path]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-P", "-m", WORKER, "--json"]
    command += ["--jobs", ",".join(map(str, share)), *(["--module", module] if module else [])]
    with tempfile.NamedTemporaryFile("w", suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
    return process, Path(log.name)


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "the compiler crashed without a word"


def compile_one(job: Job) -> Compiled:
    """Compile in this process, which must not interpret."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, tile, start = job.kernel, job.kernel.tile(job.target), time.monotonic()
    gpu = TARGETS[job.target]
    names = list(kernel.fn.arg_names)
    fixed = {**job.constants, **tile.sizes}
    types = {n: "constexpr" if n in fixed else kernel.signature[n] for n in names}
    aligned = [i for i, n in enumerate(names) if types[n][0] == "*" or types[n] == "i32"]
    source = ASTSource(
        kernel.fn,
        types,
        constexprs={(names.index(n),): v for n, v in fixed.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    binary = triton.compile(
        source,
        target=GPUTarget(gpu.backend, gpu.architecture, gpu.warp),
        options={
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "enable_fp_fusion": not kernel.exact,
        },
    )
    figures: dict[str, Any] = (
        assembly.nvidia(binary.asm) if "cubin" in binary.asm else assembly.amd(binary.asm["amdgcn"])
    )
    return dataclasses.replace(
        job.start(),
        shared=binary.metadata.shared,
        seconds=round(time.monotonic() - start, 2),
        **figures,
    )


def main() -> None:
    """The worker: one JSON line for each kernel; what the compiler prints goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, prog=f"python -m {WORKER}")
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--jobs", help="numbers in the matrix; all when not given")
    parser.add_argument("--module", help="where KERNELS is, instead of the operators")
    arguments = parser.parse_args()
    matrix = jobs(arguments.module)
    numbers = map(int, arguments.jobs.split(",")) if arguments.jobs else range(len(matrix))
    out = sys.stdout
    for number in numbers:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                compiled = compile_one(matrix[number])
            except Exception as e:  # the compiler's errors have no common type
                why = " ".join((str(e).strip() or repr(e)).split())
                compiled = dataclasses.replace(
                    matrix[number].start(), failure=f"{type(e).__name__}: {why}"
                )
        print(json.dumps(dataclasses.asdict(compiled)), file=out, flush=True)


if __name__ == "__main__":
    main()
