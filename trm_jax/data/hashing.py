"""Counter-based random numbers: every draw is a pure function of (key, counter).

The splitmix64 finaliser is used instead of a library's generator because its numbers then never change with a
library version, and because any draw can be made alone, in any order, by any process or thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


@njit(cache=True, nogil=True, inline="always")
def mix(x):
    """The splitmix64 finaliser: a bijection of 64-bit words that spreads every bit."""
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@njit(cache=True, nogil=True)
def key_of(a, b, c):
    """One 64-bit key of three integers (signed ones wrap), e.g. (seed, stream, index)."""
    key = mix(np.uint64(a) + _GOLDEN)
    key = mix((key ^ np.uint64(b)) + _GOLDEN)
    return mix((key ^ np.uint64(c)) + _GOLDEN)


@njit(cache=True, nogil=True, inline="always")
def below(key, counter, bound):
    """Draw number `counter` of the stream `key`: an integer in 0..bound-1 (bias below bound / 2**32)."""
    word = mix(key + _GOLDEN * (np.uint64(counter) + np.uint64(1)))
    return np.int64(((word >> _32) * np.uint64(bound)) >> _32)


@njit(cache=True, nogil=True)
def shuffle(key, counter, values):
    """Shuffle `values` in place with the draws from `counter` on; returns the next unused counter."""
    for last in range(values.shape[0] - 1, 0, -1):
        other = below(key, counter, last + 1)
        counter += 1
        values[last], values[other] = values[other], values[last]
    return counter


@njit(cache=True, nogil=True)
def permutation(key, length):
    """A random permutation of 0..length-1, [length] int64."""
    values = np.arange(length)
    shuffle(key, 0, values)
    return values


@njit(cache=True, nogil=True)
def draws_below(key, counters, bounds):
    """[b] int64: for each counter [b] one integer in 0..bounds[b]-1 of the stream `key`."""
    result = np.empty(counters.shape[0], np.int64)
    for i in range(counters.shape[0]):
        result[i] = below(key, counters[i], bounds[i])
    return result


def stream_key(seed: int, stream: int, index: int = 0) -> np.uint64:
    """`key_of` for Python: numba hands a uint64 back as an int, which it would not take as an int64."""
    return np.uint64(key_of(seed, stream, index))
