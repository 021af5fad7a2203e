# SPDX-License-Identifier: Apache-2.0
"""A machine whose QEMU was told of a swtpm, and has this suite's by a link of that name: started
as libvirt starts it, and ended with its machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.guest.image import Image
from tests.integration.guest.qemu import make_disk, running_guest
from tests.integration.guest.sealing import SECRET, is_settled, settle, unseal
from tests.integration.stack import running_stack
from tests.integration.swtpm_link import LIMIT_S, make_link


@pytest.mark.timeout(600)
def test_a_machine_behind_the_link_goes_on_from_a_snapshot_and_boots_again_with_its_tpm(
    run_dir: Path, image: Image
) -> None:
    disk, control = make_disk(run_dir / "disk"), run_dir / "c"
    folder = run_dir / "6a1f2b3c-1111-4222-8333-444455556666" / "tpm1.2"
    folder.mkdir(parents=True)
    with running_stack(run_dir) as stack:
        link = make_link(run_dir / "bin", stack.root / "run" / "vtpmmgr.sock")
        setup = ["swtpm_setup", "--tpm-state", str(folder), "--createek", "--not-overwrite"]
        subprocess.run(setup, env=link.environment, check=True, timeout=LIMIT_S)
        with (
            link.of_libvirt(folder, control) as tpm,
            running_guest(image, run_dir / "1", control, disk=disk) as guest,
        ):
            settle(guest)
            assert guest.why_not_migratable() == []
            guest.save("settled")
            guest.power_off()
            assert tpm.wait(LIMIT_S) == 0
        # Another TPM process and another QEMU.
        with (
            link.of_libvirt(folder, control) as tpm,
            running_guest(image, run_dir / "2", control, disk=disk, snapshot="settled") as guest,
        ):
            assert is_settled(guest)
            guest.reboot()
            guest.start_tcsd()
            assert unseal(guest) == SECRET
            guest.kill()
            assert tpm.wait(LIMIT_S) == 0
