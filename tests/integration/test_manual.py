# SPDX-License-Identifier: Apache-2.0
"""Every command of the manual, typed as it stands there, prints what the manual says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.manual_blocks import (
    CONSOLE,
    FLAGS,
    KEYS,
    LANGUAGES,
    ROOT,
    Typed,
    blocks_of,
    pages,
    typed_in,
)
from tests.integration.manual_worlds import WORLDS, type_page, world

PAGES = {str(page.relative_to(ROOT)): blocks_of(page) for page in pages()}
TYPED = [
    (page, name) for page, blocks in PAGES.items() for name in WORLDS if typed_in(name, blocks)
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("page", "where"), TYPED)
def test_the_commands_of_a_page_print_what_it_says(
    page: str, where: str, run_dir: Path, installed: Path
) -> None:
    with world(where, run_dir, installed) as there:
        type_page(there, typed_in(where, PAGES[page]))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_typed_or_why_not(page: str) -> None:
    for block in PAGES[page]:
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
        if block.language != CONSOLE:
            assert not block.keys, block.where
            assert not block.flags, block.where
            assert "\n$ " not in f"\n{block.text}", f"{block.where} has commands"
            continue
        assert block.commands, block.where
        assert block.keys.keys() <= KEYS, block.where
        assert block.flags <= FLAGS, block.where
        assert len(block.keys.keys() & {"run", "skip-because", "typed-by"}) == 1, block.where
        assert block.keys.get("run", WORLDS[0]) in WORLDS, block.where
        assert len(block.keys.get("skip-because", "a reason, please").split()) > 2, block.where
        if "typed-by" in block.keys:
            assert page in (ROOT / block.keys["typed-by"]).read_text(), block.where


def test_what_is_shown_must_be_printed_and_nothing_else() -> None:
    typed = Typed("x", ("a ... c", "...", "(end)"))
    assert typed.accepts("a b c\n(end)\n")
    assert typed.accepts("a  c\n1\n2\n(end)\n")
    for other in ("", "a b\n(end)\n", "a b c\n", "a b c\n(end)\nmore\n", "a b c\nend\n"):
        assert not typed.accepts(other)
    assert Typed("x", ()).accepts("")
    assert not Typed("x", ()).accepts("something\n")


@pytest.mark.timeout(400)
def test_a_blob_of_the_quick_start_opens_in_no_other_tpm(run_dir: Path, installed: Path) -> None:
    """The same commands, in front of another TPM: what the README promises of it."""
    quick_start = typed_in("up", PAGES["README.md"])
    # Up to the block that is typed after everything was started again.
    (at,) = [index for index, block in enumerate(quick_start) if "again" in block.flags]
    before, (unseal,) = quick_start[:at], quick_start[at].commands
    with world("up", run_dir, installed) as there:
        type_page(there, before)
        kept = [one.block for one in there.kept]
        there.interrupt()
        there.run("rm -r /srv/vtpm /var/lib/tpm/system.data")
        type_page(there, kept)
        there.run("tpm_takeownership -y -z")
        assert "known to this guest only" not in there.run(unseal.command, fails=True)
