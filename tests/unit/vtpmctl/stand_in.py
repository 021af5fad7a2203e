# SPDX-License-Identifier: Apache-2.0
"""A machine for `SystemdHost`: programs of systemd's names on PATH that keep the state of units in
files, and write down how they were called.

    with stand_in(tmp_path, monkeypatch) as machine:
        ...
        assert machine.calls() == ["systemctl enable vtpm-guest@g1.target", ...]
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from daemons.runtime.config.findings import BadConfig
from daemons.runtime.config.folder import examine
from daemons.runtime.control import Fields, serve_control
from daemons.runtime.log import Log
from daemons.vtpmctl.host_systemd import Places, SystemdHost

_FIRST_UID = 901

_SYSTEMCTL = """#!/bin/sh
cd "$(dirname "$0")/../units" || exit 1
echo "systemctl $*" >> ../calls
verb=$1
[ ! -e "../fails/systemctl-$verb" ] || { echo "Job failed." >&2; exit 1; }
for unit; do :; done
name=${unit#*@}
name=${name%%.*}
state() { if [ -e "$1.$2" ]; then cat "$1.$2"; else echo "$3"; fi; }
case "$*" in
"show --value -p LoadState vtpm.target") echo loaded ;;
"show --value -p ActiveState -p UnitFileState "*)
    state "$unit" active inactive
    state "$unit" file disabled ;;
"is-active "*)
    shift
    for unit; do state "$unit" active inactive; done
    exit 3 ;;
"enable tpmfront-tcp@"*)
    # As systemd: nothing to start without an address.
    grep -q ListenStream= "../etc/systemd/system/$unit.d"/*.conf || exit 1
    echo enabled > "$unit.file" ;;
"enable "*) echo enabled > "$unit.file" ;;
"start "*)
    echo active > "$unit.active"
    echo active > "tpmfront@$name.service.active"
    mkdir -p "../var/vtpm/guests/$name"
    echo image > "../var/vtpm/guests/$name/slot0"
    state "../fails/vtpm@$name.service" state active > "vtpm@$name.service.active" ;;
"stop "*)
    shift
    for unit; do rm -f "$unit.active"; done ;;
"disable "*) rm -f "$unit.file" ;;
"reset-failed "*) ;;
"daemon-reload") ;;
*) echo "Unknown command: $*" >&2; exit 1 ;;
esac
"""
_SYSUSERS = """#!/bin/sh
cd "$(dirname "$0")/.." || exit 1
echo "systemd-sysusers $(basename "$1")" >> calls
[ ! -e fails/systemd-sysusers ] || { echo "Failed." >&2; exit 1; }
sed -n 's/^u \\([^ ]*\\) .*/\\1/p' "$1" >> users
"""
_USERDEL = """#!/bin/sh
cd "$(dirname "$0")/.." || exit 1
echo "userdel $1" >> calls
sed -i "/^$1\\$/d" users
"""


class StandIn:
    """What the programs have been told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places(
            root / "etc/vtpm",
            root / "var/vtpm",
            root / "run/vtpm",
            root / "etc/sysusers.d",
            root / "etc/systemd/system",
        )
        self.host = SystemdHost(self.places, self.find_uid)
        self.reloads = 0

    def find_uid(self, user: str) -> int | None:
        """Return the uid of a user that was made."""
        users = (self.root / "users").read_text().split()
        return _FIRST_UID + users.index(user) if user in users else None

    def users(self) -> list[str]:
        """Return all users that there are."""
        return (self.root / "users").read_text().split()

    def calls(self) -> list[str]:
        """Return what was called and may change something, and forget it."""
        path = self.root / "calls"
        calls = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [call for call in calls if " is-active " not in call and " show " not in call]

    def fail(self, what: str, content: str = "") -> None:
        """Have a verb ("systemctl-enable"), a program or a unit fail."""
        (self.root / "fails" / what).write_text(content)

    def mend(self) -> None:
        """Have everything work again."""
        for path in (self.root / "fails").iterdir():
            path.unlink()

    def state(self, unit: str) -> tuple[str, str]:
        """Return the active state and the file state of a unit."""
        folder = self.root / "units"
        active, file = folder / f"{unit}.active", folder / f"{unit}.file"
        return (
            active.read_text().strip() if active.exists() else "inactive",
            file.read_text().strip() if file.exists() else "disabled",
        )

    def everything(self) -> dict[str, str]:
        """Return all files that commands may leave, with what is in them."""
        folders = ("etc", "var", "units")
        found = [path for folder in folders for path in (self.root / folder).rglob("*")]
        files = {str(path): path.read_text() for path in found if path.is_file()}
        return {**files, "users": " ".join(self.users())}

    async def _reload(self, _args: Fields) -> Fields:
        examination = examine(self.places.config, self.find_uid)
        if examination.findings:
            raise BadConfig(examination.findings)
        self.reloads += 1
        return {"at_next_start": []}


@asynccontextmanager
async def stand_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandIn]:
    """Give a machine on which the manager runs."""
    machine = StandIn(root)
    for folder in ("bin", "units", "fails", "etc/vtpm/guests.d", "var/vtpm/guests"):
        (root / folder).mkdir(parents=True)
    (root / "run/vtpm/vtpmmgr").mkdir(parents=True)
    (root / "users").touch()
    programs = (
        ("systemctl", _SYSTEMCTL),
        ("systemd-sysusers", _SYSUSERS),
        ("userdel", _USERDEL),
    )
    for name, text in programs:
        path = root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(root / "bin"), prepend=":")
    (root / "units/vtpmmgr.service.active").write_text("active\n")
    control = root / "run/vtpm/vtpmmgr/control.sock"
    async with trio.open_nursery() as nursery:
        verbs = {"reload": machine._reload}
        log = Log("vtpmmgr", sink=lambda _line: None)
        await nursery.start(partial(serve_control, control, verbs, log=log))
        yield machine
        nursery.cancel_scope.cancel()
