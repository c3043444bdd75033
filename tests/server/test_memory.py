"""What large requests took is not kept."""

import subprocess
import sys

LARGE_AND_SMALL = """
from pathlib import Path
from extender.server.memory import give_back

def resident_mb():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

bytes(1 << 20)  # from one that came and went, malloc learns that such large ones come and go
{give_back}
before_mb, large, small = resident_mb(), [], []
for number in range(200):
    large.append(b"x" * (1 << 20))
    small.append(bytes([number]) * 1000)  # what stays, and would hold on to the memory around it
del large
print(resident_mb() - before_mb)
"""


def kept_mb(give_back: str) -> float:
    """What a process holds on to of 200 MB, in MB."""
    code = LARGE_AND_SMALL.format(give_back=give_back)
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(told.stdout)


def test_what_large_requests_took_goes_back_to_the_system_whatever_small_ones_stay() -> None:
    assert kept_mb("give_back()") < 20
    assert kept_mb("") > 100, "this C library needs not be told"
