# SPDX-License-Identifier: Apache-2.0
"""Random numbers and keys made ahead of time."""

from __future__ import annotations

import os
from itertools import pairwise

import gmpy2  # type: ignore[import-untyped]  # it comes without type stubs
import pytest
import trio

from daemons.runtime.clock import MonotonicTicks
from daemons.runtime.keypool import KeyPool, make_primes
from daemons.runtime.random import OsRandom, SeededRandom


@pytest.mark.parametrize("source", [OsRandom(), SeededRandom(b"seed")])
def test_exactly_so_many_bytes_come_and_no_two_requests_agree(
    source: OsRandom | SeededRandom,
) -> None:
    sizes = [0, 1, 19, 20, 20, 2047, 2048, 2049, 5000, 20]
    answers = [source.random(size) for size in sizes]
    assert [len(answer) for answer in answers] == sizes
    stream = b"".join(answers)
    blocks = [stream[i : i + 16] for i in range(0, len(stream) - 15, 16)]
    assert len(set(blocks)) == len(blocks)


def test_one_seed_gives_different_numbers_in_every_process() -> None:
    assert SeededRandom(b"seed").random(32) != SeededRandom(b"seed").random(32)


def test_the_seed_counts_even_if_the_kernel_gives_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    first, second = SeededRandom(b"seed 1"), SeededRandom(b"seed 2")
    assert first.random(32) != second.random(32)
    again = SeededRandom(b"seed 1")
    assert again.random(32) != first.random(32)  # first has moved on
    again.stir(b"data")
    moved = SeededRandom(b"seed 1")
    moved.random(32)
    assert again.random(32) != moved.random(32)


def test_stirring_takes_effect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    stirred, other = SeededRandom(b"seed"), SeededRandom(b"seed")
    assert stirred.random(20) == other.random(20)
    stirred.stir(b"x")
    assert stirred.random(20) != other.random(20)


def test_what_was_handed_out_is_not_in_the_state_after_a_refill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = SeededRandom(b"seed")
    given = source.random(20)
    source.random(4096)
    state = repr(vars(source)).encode() + b"".join(
        value for value in vars(source).values() if isinstance(value, bytes)
    )
    assert given not in state


def test_a_stirred_kernel_still_gives_numbers() -> None:
    source = OsRandom()
    source.stir(b"data" * 100)
    assert len(source.random(20)) == 20


def test_ticks_do_not_run_backwards() -> None:
    clock = MonotonicTicks()
    values = [clock.ticks_us() for _ in range(100)]
    assert all(earlier <= later for earlier, later in pairwise(values))


@pytest.mark.parametrize(
    ("bits", "exponent"), [(512, 65537), (1024, 3), (1024, 65537), (1024, 17), (2048, 65537)]
)
def test_keys_of_every_kind_are_keys(bits: int, exponent: int) -> None:
    p, q = KeyPool(size=0).generate(bits, exponent)
    assert (p * q).bit_length() == bits
    assert gmpy2.is_prime(p)
    assert gmpy2.is_prime(q)
    assert p != q
    assert gmpy2.gcd(exponent, (p - 1) * (q - 1)) == 1


async def _wait_stock(pool: KeyPool, stock: int) -> None:
    # The refill runs in a thread that tells nobody.
    with trio.fail_after(60):
        while pool.stock != stock:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_pool_hands_each_key_out_once_and_fills_up_again() -> None:
    pool = KeyPool(bits=1024, size=3)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await _wait_stock(pool, 3)
        first = [pool.generate(1024, 65537) for _ in range(3)]
        await _wait_stock(pool, 3)
        second = [pool.generate(1024, 65537) for _ in range(3)]
        nursery.cancel_scope.cancel()
    assert len({p for p, _ in first + second}) == 6


async def test_a_key_of_another_kind_leaves_the_stock_alone() -> None:
    pool = KeyPool(bits=1024, size=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await _wait_stock(pool, 2)
        pool.generate(512, 65537)
        pool.generate(1024, 3)
        assert pool.stock == 2
        nursery.cancel_scope.cancel()


def test_an_empty_pool_makes_the_key_now() -> None:
    pool = KeyPool(bits=1024, size=3)
    p, q = pool.generate(1024, 65537)
    assert (p * q).bit_length() == 1024
    assert pool.stock == 0


async def test_a_full_pool_uses_no_processor_time() -> None:
    pool = KeyPool(bits=1024, size=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await _wait_stock(pool, 2)
        before = sum(os.times()[:2])
        await trio.sleep(0.3)
        assert sum(os.times()[:2]) - before < 0.15
        nursery.cancel_scope.cancel()


def test_primes_come_from_the_source_that_was_given() -> None:
    class Counting(OsRandom):
        taken = 0

        def random(self, size_bytes: int) -> bytes:
            self.taken += size_bytes
            return super().random(size_bytes)

    source = Counting()
    make_primes(512, 65537, source)
    assert source.taken >= 64
