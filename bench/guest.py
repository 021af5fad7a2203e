# SPDX-License-Identifier: Apache-2.0
"""Time from the start of QEMU to the guest's first process, with our TPM and with swtpm's.

Between the two the firmware starts the TPM up and measures, the kernel reads PCRs and its IMA
extends: some forty commands. The guests are those of the integration tests.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.peers import our_stack, temporary_folder, wait_ready
from tests.integration.guest.image import Image, build_image
from tests.integration.guest.qemu import running_guest
from tests.integration.guest.reference import running_swtpm

ROUNDS: Final = 9
PROMISE: Final = 1.1
"""Ours by swtpm's, medians."""


def guest_boots(rounds: int = ROUNDS) -> str:
    """Boot the same guest with the one TPM and the other, in turns; return a Markdown table."""
    samples_s: dict[str, list[float]] = {"ours": [], "swtpm": []}
    with temporary_folder() as folder, our_stack(folder, None) as process:
        wait_ready(process)
        image = build_image(folder)
        ours = folder / "run" / "guests" / "g1" / "ctrl.sock"
        _boot_s(image, folder, ours)  # the kernel's pages, once
        for number in range(rounds):
            names = list(samples_s)
            # Whoever comes second finds the caches warmer, so they take turns in that, too.
            for name in names if number % 2 else reversed(names):
                with _swtpm_or(ours, name, folder) as control:
                    samples_s[name].append(_boot_s(image, folder, control))
    return _table(samples_s)


@contextmanager
def _swtpm_or(ours: Path, name: str, folder: Path) -> Iterator[Path]:
    """Give the control socket of a peer; swtpm ends with its guest, so there is a new one."""
    if name == "ours":
        yield ours
    else:
        with running_swtpm(folder / "swtpm") as control:
            yield control


def _boot_s(image: Image, folder: Path, control: Path) -> float:
    begun = time.perf_counter()
    with running_guest(image, folder / "guest", control) as guest:
        elapsed_s = time.perf_counter() - begun
        guest.kill()
    return elapsed_s


def _table(samples_s: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(samples) for name, samples in samples_s.items()}
    ratio = medians["ours"] / medians["swtpm"]
    rows = [
        f"| {name} | {medians[name]:.2f} | {min(samples):.2f} | {max(samples):.2f} |"
        for name, samples in samples_s.items()
    ]
    return "\n".join(
        [
            "| guest boot to init | median s | least s | most s |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"Ratio of the medians of {len(samples_s['ours'])} boots each: {ratio:.2f}, promised"
            f" <= {PROMISE:g}, {'kept' if ratio <= PROMISE else 'MISSED'}.",
        ]
    )


def main() -> None:
    """Print it."""
    print(guest_boots())


if __name__ == "__main__":
    main()
