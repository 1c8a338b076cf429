"""Freed memory stays with the process."""

import pytest
from processes import run_python

CODE = """
import ctypes, resource, sys
{call}
size = 128 * 2**20
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def touch():
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CALL = "from mmvitconv.runtime.allocator import keep_freed_memory; assert keep_freed_memory()"


@pytest.mark.slow
def test_a_block_is_mapped_once():
    without, with_it = (int(run_python("-c", CODE.format(call=c)).stdout) for c in ("", CALL))
    assert with_it < 0.1 * without
