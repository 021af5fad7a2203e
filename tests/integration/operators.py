# SPDX-License-Identifier: Apache-2.0
"""An operator and a System Approval Agent beside a running stack, each with the commands of
`vtpmctl`.

    with running_stack(run_dir) as stack:
        operator = Operator(stack.root, run_dir / "files")
        agent = operator.new_agent()
        operator.provision(agent, 0)

The commands run in this process, as click's own test runner has it; the daemons are real.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import trio
from click.testing import CliRunner

from daemons.runtime.config.text import TomlValue, toml_text
from daemons.runtime.control import control_request
from daemons.vtpmctl.adminclient import Refused, open_admin
from daemons.vtpmctl.cli import main
from protocol.manager.constants import ManagementOrdinal, ManagerCode
from protocol.tis.driver import open_tis
from protocol.tpm12.wire import Structure
from tests.integration.stack import Stack, StackError
from tpmcore import tss12

NAMESPACE = UUID(int=0x7079)
BOOT_PCRS = "0-7"


def uuid_of(guest: str) -> UUID:
    """Return the uuid of a guest that `configure` has made."""
    return uuid5(NAMESPACE, guest)


def configure(root: Path, guest: str, **keys: TomlValue) -> None:
    """Write the file of a guest before the stack's first start."""
    folder = root / "state" / "etc" / "guests.d"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    top = {"uuid": str(uuid_of(guest)), "uid": os.geteuid(), **keys}
    text = toml_text(guest, top, {"front": {"stream_mode": "0666"}})
    (folder / f"{guest}.toml").write_text(text)
    for each in (root / "state", root / "state" / "etc"):
        each.chmod(0o700)


def configure_manager(root: Path, **keys: TomlValue) -> None:
    """Write the machine's file before the stack's first start."""
    (root / "state" / "etc").mkdir(parents=True, exist_ok=True, mode=0o700)
    text = toml_text("machine", {}, {"manager": {"shared_uid": True, **keys}})
    (root / "state" / "etc" / "vtpm.toml").write_text(text)


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """The files of an agent.

    Attributes:
        key: private.
        pub: public.
        escrow: where the key of a group goes.
    """

    key: Path
    pub: Path
    escrow: Path


class Operator:
    """Somebody with the rights of the stack's user.

    Args:
        root: folder of the stack.
        files: folder for files; made.
    """

    def __init__(self, root: Path, files: Path) -> None:
        self.root = root
        self.files = files
        self.files.mkdir(exist_ok=True)
        self._count = 0

    @property
    def admin_socket(self) -> Path:
        """Where the manager listens."""
        return self.root / "run" / "vtpmmgr-admin.sock"

    def new_path(self, name: str) -> Path:
        """Return a path that is not there yet."""
        self._count += 1
        return self.files / f"{self._count}-{name}"

    def run(self, *words: str | Path) -> Any:  # noqa: ANN401 - JSON of whatever shape
        """Run a command of the stack and return its JSON.

        Raises:
            StackError: it failed.
        """
        return self._invoke((*words, "--dir", self.root), code=0)

    def saa(self, *words: str | Path) -> Any:  # noqa: ANN401
        """Run a command of the agent, which knows no stack."""
        return self._invoke(("saa", *words), code=0)

    def refused(self, *words: str | Path) -> str:
        """Run a command that must fail with exit code 1 and return what it says."""
        where = () if words[0] == "saa" else ("--dir", self.root)
        said: str = self._invoke((*words, *where), code=1)
        return said

    def _invoke(self, words: Sequence[str | Path], *, code: int) -> Any:  # noqa: ANN401
        done = CliRunner().invoke(main, [*map(str, words), "--json"])
        if done.exit_code != code:
            said = f"{done.output}{done.exception!r}"
            raise StackError(f"vtpmctl {words}: exit code {done.exit_code}: {said}")
        return json.loads(done.stdout) if code == 0 else done.stderr

    def code(self, ordinal: ManagementOrdinal, request: Structure) -> int:
        """Send a command whose answer has no body and return the code of the answer."""

        async def send() -> None:
            async with open_admin(self.admin_socket) as admin:
                await admin.send(ordinal, request)

        try:
            trio.run(send)
        except Refused as refusal:
            return refusal.code
        return ManagerCode.SUCCESS

    def group(self, number: int = 0) -> dict[str, Any]:
        """Return what is shown of a group."""
        shown: dict[str, Any] = self.run("group", "show", str(number))
        return shown

    def vtpm(self, guest: str) -> dict[str, Any]:
        """Return what is shown of a vTPM."""
        shown: dict[str, Any] = self.run("vtpm", "show", guest)
        return shown

    def pcrs_file(self) -> Path:
        """Write the present PCRs of the hardware TPM into a file."""
        path = self.new_path("pcrs.txt")
        done = CliRunner().invoke(main, ["manager", "pcrs", "--dir", str(self.root)])
        assert done.exit_code == 0, done.output
        path.write_text(done.stdout)
        return path

    def new_agent(self, *options: str) -> AgentFiles:
        """Make an agent."""
        key, pub = self.new_path("agent.pem"), self.new_path("agent.pub")
        self.saa("keygen", "--out", key, *options)
        self.saa("pubkey", "--key", key, "--out", pub, *options)
        return AgentFiles(key, pub, self.new_path("escrow.json"))

    def provision(self, agent: AgentFiles, label: str = "test") -> Path:
        """Give group 0 its agent, or make another group; its folder."""
        folder = self.new_path("group")
        self.run("group", "new", "--agent-pub", agent.pub, "--label", label, "--out", folder)
        return folder

    def register(self, agent: AgentFiles, number: int, folder: Path) -> None:
        """Give the key of a group into the agent's keeping."""
        uuid = self.group(number)["uuid"]
        request, answer = self.new_path("registration.json"), self.new_path("registered.json")
        state = self.new_path("pending.json")
        self.saa(
            *("register-begin", "--key", agent.key, "--group", uuid, "--pcrs", BOOT_PCRS),
            *("--out", request, "--state", state),
        )
        self.run("group", "register", str(number), "--request", request, "--out", answer)
        self.saa(
            *("register-finish", "--key", agent.key, "--state", state, "--answer", answer),
            *("--aik", folder / "aik.pub", "--config", BOOT_PCRS),
            *("--pcrs-file", self.pcrs_file(), "--out", agent.escrow),
        )

    def sign(
        self,
        agent: AgentFiles,
        group: str,
        sequence: int,
        *,
        pcrs: Sequence[Path],
        labels: Sequence[str] = (),
        selection: str = BOOT_PCRS,
    ) -> Path:
        """Have the agent sign a list."""
        out = self.new_path("list.json")
        files = [word for path in pcrs for word in ("--pcrs-file", path)]
        named = [word for label in labels for word in ("--label", label)]
        self.saa(
            *("sign-config", "--key", agent.key, "--group", group, "--sequence", str(sequence)),
            *("--config", selection, *files, *named, "--out", out),
        )
        return out

    def recover(
        self, agent: AgentFiles, number: int, ek: Path, expected: Path, pcrs: str = BOOT_PCRS
    ) -> None:
        """Open a closed group by its agent."""
        uuid = self.group(number)["uuid"]
        identity, challenge = self.new_path("identity.json"), self.new_path("challenge.json")
        request, answer = self.new_path("request.json"), self.new_path("answer.json")
        state = self.new_path("pending.json")
        self.run("manager", "identity", "--label", "recovery", "--out", identity)
        self.saa(
            *("recover-begin", "--key", agent.key, "--group", uuid, "--identity", identity),
            *("--ek", ek, "--pcrs", pcrs, "--out", challenge, "--state", state),
        )
        self.run(
            *("group", "recover-begin", str(number), "--identity", identity),
            *("--challenge", challenge, "--out", request),
        )
        self.saa(
            *("recover", "--key", agent.key, "--state", state, "--request", request),
            *("--escrow", agent.escrow, "--config", pcrs, "--pcrs-file", expected),
            *("--out", answer),
        )
        self.run("group", "recover-finish", str(number), answer)

    def extend_hardware(self, pcr: int, digest: bytes) -> None:
        """Measure something into the hardware TPM, at locality 0."""

        async def extend() -> None:
            async with open_tis(self.root / "run" / "hwtpm", 0) as driver:
                await tss12.converse(driver.transact, tss12.extend(pcr, digest))

        trio.run(extend)

    def control(self, verb: str) -> dict[str, Any]:
        """Ask the manager's control socket."""

        async def ask() -> dict[str, Any]:
            path = self.root / "run" / "vtpmmgr-control.sock"
            return dict(await control_request(path, verb))

        return trio.run(ask)


def guest_code(stack: Stack, guest: str, request: bytes) -> int:
    """Send a message through a guest's TPM socket and return the code of the answer."""
    return int.from_bytes(stack.transact(guest, request)[6:10], "big")


def restart_manager(stack: Stack) -> None:
    """End the manager as an upgrade does, and return when the supervisor has it up again."""
    old = stack.pid("vtpmmgr")
    os.kill(old, signal.SIGTERM)
    stack.wait_daemon_replaced("vtpmmgr", old)
