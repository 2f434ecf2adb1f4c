"""Memory that glibc keeps: no page is mapped twice, and a peak that begins anew gives it back."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
MIB = 1 << 20
PAGES = f"""
import resource, sys
import torch
from ddbench.memory import Peak, keep_freed
kept = sys.argv[1] == "keep" and keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty({200 * MIB}, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
again = faults()
print(kept, again, Peak(torch.device("cpu")).figures()["rss_bytes"])
"""


def told(how: str, **variables: str) -> tuple[str, int, int]:
    """Whether memory is kept, pages mapped by the second tensor of a size, bytes in use after both are gone."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    script = [sys.executable, "-c", PAGES, how]
    kept, pages, resident = subprocess.run(
        script, env=usual | variables, check=True, capture_output=True, text=True
    ).stdout.split()
    return kept, int(pages), int(resident)


def test_kept_memory_is_not_mapped_again():
    (_, mapped, usual), (kept, again, resident) = told("give back"), told("keep")
    assert kept == "True"
    assert again < mapped / 2
    assert resident < usual + 100 * MIB


def test_a_users_own_settings_stay():
    assert told("keep", MALLOC_ARENA_MAX="2")[0] == "False"
