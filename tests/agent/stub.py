"""What the stub of NVML is told: cards and how they are partitioned, as text in its file."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from extender.core.catalogue import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from extender.core.catalogue import Product

A100 = PRODUCTS["A100-80GB"]
A30 = PRODUCTS["A30-24GB"]
NAMES = {A100.name: "NVIDIA A100-SXM4-80GB", A30.name: "NVIDIA A30"}

SOURCE = Path(__file__).with_name("nvml_stub.c")

_serial = itertools.count(1)


class NoCompilerError(Exception):
    """There is nothing to make the stub with."""


def build(folder: Path) -> Path:
    """Make the stub of our source; the library, under the name by which `pynvml` asks for it."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompilerError("no C compiler `cc`: install gcc or clang")
    made = folder / "libnvidia-ml.so.1"
    flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    soname = f"-Wl,-soname,{made.name}"
    subprocess.run([compiler, *flags, soname, "-o", made, SOURCE], check=True, timeout=60)
    return made


def uuid(prefix: str) -> str:
    """Of the right form, and never the same twice, as NVIDIA's are."""
    number = next(_serial)
    return f"{prefix}-{number:08x}-0000-5000-8000-{number:012x}"


@dataclass(slots=True)
class FakeSlice:
    """A MIG device as the test wants it."""

    profile: str
    start: int
    used_mib: int = 13
    """An empty slice shows some."""
    processes_mib: tuple[int, ...] = ()
    uuid: str = field(default_factory=lambda: uuid("MIG"))
    named: bool = True
    """Whether NVML's name for it tells the profile."""


@dataclass(slots=True)
class FakeGpu:
    """A card as the test wants it."""

    product: Product = A100
    slices: list[FakeSlice] = field(default_factory=list)
    mig: bool | None = None
    """MIG mode; None: on if there are slices."""
    used_mib: int = 4
    processes_mib: tuple[int, ...] = ()
    fault: int = 0
    minor: int | None = None
    """Number of its device file; None: its index."""
    xids: tuple[tuple[int, ...], ...] = ()
    """What happens on it once it is set up: (XID, GPU instance, compute instance), or less."""
    uuid: str = field(default_factory=lambda: uuid("GPU"))

    def lines(self) -> list[str]:
        """As the stub reads it."""
        name, total = NAMES[self.product.name], self.product.nominal_gb * 1024
        mig = int(bool(self.slices)) if self.mig is None else int(self.mig)
        lines = [f"gpu {self.uuid} {total} 600 {self.used_mib} {mig} {name}"]
        lines += [f"process {mib}" for mib in self.processes_mib]
        if self.minor is not None:
            lines.append(f"minor {self.minor}")
        if self.fault:
            lines.append(f"fault {self.fault}")
        lines += ["xid " + " ".join(map(str, xid)) for xid in self.xids]
        for slot, each in enumerate(self.slices):
            profile = self.product.profile(each.profile)
            assert profile is not None
            assert profile.memory_mib is not None
            called = f"{name} MIG {each.profile}" if each.named else name
            # Ids count from 1 on each card, so two cards have the same, and a new slice an old one's.
            lines.append(
                f"slice {slot} {slot + 1} 0 {each.uuid} {each.start} {profile.memory_slices} "
                f"{profile.gi_profile_id} {profile.compute_slices} {profile.memory_mib} "
                f"{each.used_mib} {called}"
            )
            lines += [f"process {mib}" for mib in each.processes_mib]
        return lines


def partitioned(product: Product, placements: Iterable[tuple[str, int]]) -> FakeGpu:
    """A card in MIG mode with these (profile, start)."""
    return FakeGpu(product, [FakeSlice(name, start) for name, start in placements], mig=True)


class Stub:
    """The hardware that NVML will tell of.

    Attributes:
        path: the stub's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_up(self, *gpus: FakeGpu, options: Iterable[str] = ()) -> None:
        """This is the hardware from now on; the options are directives of the stub."""
        self._write(self.path, gpus, options)

    def set_up_after(
        self, calls: int, *gpus: FakeGpu, now: Iterable[FakeGpu], options: Iterable[str] = ()
    ) -> None:
        """The hardware is `now`, and becomes `gpus` in the middle of a reading."""
        later, options = self.path.with_name("later"), tuple(options)
        self._write(later, gpus, options)
        self._write(self.path, now, [*options, f"after {calls} {later}"])

    @staticmethod
    def _write(path: Path, gpus: Iterable[FakeGpu], options: Iterable[str]) -> None:
        lines = ["driver 580.95.05", *options, *(line for gpu in gpus for line in gpu.lines())]
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(path)  # another inode, all at once
