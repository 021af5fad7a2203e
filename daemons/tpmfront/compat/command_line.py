# SPDX-License-Identifier: Apache-2.0
"""Reading a command line of `swtpm socket` or `swtpm chardev`.

Words are taken as getopt_long(3) does: long options may be shortened, and of an option that is
given twice the last one counts.
"""

from __future__ import annotations

import getopt
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from daemons.tpmfront.compat.errors import BadLine, UnreadableLine
from daemons.tpmfront.compat.grammar import OPTIONS, REFUSED, options_of
from daemons.tpmfront.compat.options import (
    LOOPBACK,
    SOCKET_MODE,
    Channel,
    CompatOptions,
    Descriptor,
    Interface,
    KeyFile,
    LogPlace,
    PidPlace,
    Place,
    Startup,
    TcpPlace,
    UnixPlace,
)
from daemons.tpmfront.compat.suboptions import Suboptions, parse

_PORT_LAST: Final = 0xFFFF
_FIRST_FREE_FD: Final = 3


class CommandLine:
    """The words of a command line, taken apart; nothing of the machine has been looked at."""

    def __init__(self, interface: Interface, words: Sequence[str]) -> None:
        """Args:
        interface: of the command.
        words: behind it.

        Raises:
            UnreadableLine: there is no such option, or its value is missing.
            BadLine: words that belong to no option.
        """
        self._interface = interface
        options = options_of(interface)
        letters = "".join(one.letter + (":" if one.form else "") for one in options if one.letter)
        names = [one.name + ("=" if one.form else "") for one in options]
        try:
            found, rest = getopt.gnu_getopt(list(words), letters, names)
        except getopt.GetoptError as error:
            raise UnreadableLine(str(error)) from None
        if rest:
            raise BadLine(f"Unknown parameter '{rest[0]}'")
        by_letter = {f"-{one.letter}": one.name for one in options if one.letter}
        # The last one of a kind counts.
        self._given = {by_letter.get(name, name.removeprefix("--")): value for name, value in found}
        # -p and --server are two ways to say the same.
        self._data_option = next(
            (name for name in reversed(self._names(found, by_letter)) if name in _DATA_OPTIONS),
            None,
        )

    @staticmethod
    def _names(found: Sequence[tuple[str, str]], by_letter: Mapping[str, str]) -> list[str]:
        return [by_letter.get(name, name.removeprefix("--")) for name, _value in found]

    def has(self, option: str) -> bool:
        """Whether an option was given."""
        return option in self._given

    def check_supported(self) -> None:
        """Raises:
        BadLine: an option that this suite has not.
        """
        for option, reason in REFUSED.items():
            if option in self._given:
                raise BadLine(reason)

    def _subs(self, option: str) -> Suboptions | None:
        """Return what an option's value says; None if it was not given."""
        if option not in self._given:
            return None
        kinds = next(one.kinds for one in OPTIONS if one.name == option)
        assert kinds is not None
        return parse(option, self._given[option], kinds)

    def state(self, environ: Mapping[str, str]) -> Path:
        """Return the folder of the TPM.

        Raises:
            BadLine: none was given, or it is no folder.
        """
        subs = self._subs("tpmstate")
        if subs is None:
            named = environ.get("TPM_PATH", "")
            if not named:
                raise BadLine("--tpmstate is required, or TPM_PATH in the environment")
            return Path(named)
        folder, uri = subs.text("dir"), subs.text("backend-uri")
        if folder is not None:
            return Path(folder)
        if uri is None:
            raise BadLine("The dir or backend-uri parameters is required for the tpmstate option")
        scheme, separator, path = uri.partition("://")
        if scheme == "dir" and separator and path:
            return Path(path)
        raise BadLine(f"backend-uri={uri}: only dir://DIR is supported")

    def options(self, environ: Mapping[str, str]) -> CompatOptions:
        """Return what the command line asks for.

        Args:
            environ: TPM_PATH and TPM_PORT count.

        Raises:
            BadLine: it does not make sense.
        """
        self.check_supported()
        needs_init, startup = self._flags()
        locality = self._subs("locality")
        data, device = self._data(environ)
        return CompatOptions(
            interface=self._interface,
            state=self.state(environ),
            control=self._control(),
            data=data,
            device=device,
            needs_init=needs_init,
            startup=startup,
            rejects_locality_4=locality is not None and locality.flag("reject-locality-4"),
            allows_set_locality=locality is not None and locality.flag("allow-set-locality"),
            keys=tuple(
                [(name, self._key(name)) for name in ("key", "migration-key") if self.has(name)]
            ),
            log=self.log(),
            pid=self._pid(),
            is_daemon=self.has("daemon"),
            terminates=self.has("terminate") or (data is not None and data.terminates),
            runas=self.runas,
            without_effect=self._without_effect(),
        )

    @property
    def runas(self) -> str | None:
        """The user to become."""
        return self._given.get("runas")

    def log(self) -> LogPlace:
        """Return where the log goes.

        Raises:
            BadLine: the value makes no sense.
        """
        subs = self._subs("log")
        if subs is None:
            return LogPlace()
        file, level = subs.text("file"), subs.number("level") or 0
        if level < 0:
            raise BadLine(f"Error parsing log options: level: invalid number '{level}'")
        is_somewhere = file is not None or subs.number("fd") is not None
        return LogPlace(
            file=None if file is None or file == "-" else Path(file),
            fd=subs.number("fd") if file is None else None,
            is_off=file == "-",
            level=level or int(is_somewhere),
            prefix=subs.text("prefix") or "",
            truncates=subs.flag("truncate"),
        )

    def _pid(self) -> PidPlace | None:
        subs = self._subs("pid")
        if subs is None:
            return None
        file, fd = subs.text("file"), subs.number("fd")
        if file is None and fd is None:
            raise BadLine("The file or fd parameter is required for the pid option")
        if file is None and fd is not None and not _is_file(fd):
            raise BadLine(f"Bad filedescriptor {fd} for pid file")
        return PidPlace(None if file is None else Path(file), None if file is not None else fd)

    def _flags(self) -> tuple[bool, Startup]:
        subs = self._subs("flags")
        if subs is None:
            return True, Startup.NONE
        startup = Startup.NONE
        for kind in (Startup.CLEAR, Startup.STATE, Startup.DEACTIVATED):
            if subs.flag(f"startup-{kind.value}"):
                startup = kind
                break
        return not subs.flag("not-need-init") and startup is Startup.NONE, startup

    def _control(self) -> Channel | None:
        subs = self._subs("ctrl")
        if subs is None:
            return None
        kind = subs.text("type")
        terminates = subs.flag("terminate")
        match kind:
            case None:
                raise BadLine("Missing type parameter for control channel")
            case "unixio":
                for name in ("fd", "clientfd"):
                    fd = subs.number(name)
                    if fd is not None:
                        return Channel(_socket(fd, "control channel"), terminates=terminates)
                return Channel(_unix_place(subs, "control channel"), terminates=terminates)
            case "tcp":
                if subs.number("clientfd") is not None:
                    raise BadLine("clientfd is for UnixIO control channels only")
                fd = subs.number("fd")
                place = _socket(fd, "control channel") if fd is not None else None
                if place is None and subs.number("port") is None:
                    raise BadLine("Missing port and fd options for TCP control channel")
                return Channel(
                    place or _tcp_place(subs, subs.number("port"), "TCP control channel port"),
                    terminates=terminates,
                )
            case _:
                raise BadLine(f"Unsupported control channel type: {kind}")

    def _data(self, environ: Mapping[str, str]) -> tuple[Channel | None, Path | Descriptor | None]:
        fd = self._fd()
        if self._interface is Interface.CHARDEV:
            if fd is not None:
                return None, fd
            if not self.has("chardev"):
                raise BadLine("Error: Missing character device or file descriptor")
            return None, Path(self._given["chardev"])
        if fd is not None:
            return Channel(fd, terminates=True), None
        if self._data_option == "port":
            port = _port(self._given["port"])
            return Channel(TcpPlace(port), disconnects=True), None
        subs = self._subs("server")
        return (None if subs is None else self._server(subs, environ)), None

    def _fd(self) -> Descriptor | None:
        if not self.has("fd"):
            return None
        given = self._given["fd"]
        if not given.isdecimal():
            raise BadLine("Cannot parse socket file descriptor")
        number = int(given)
        try:
            found = os.fstat(number)
        except OSError as error:
            raise BadLine(f"Cannot stat file descriptor: {error.strerror}") from None
        if not (stat.S_ISSOCK(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            raise BadLine("Given file descriptor type is not supported")
        if number < _FIRST_FREE_FD:
            raise BadLine("Error: Cannot accept file descriptors with values 0, 1, or 2")
        return Descriptor(number)

    def _server(self, subs: Suboptions, environ: Mapping[str, str]) -> Channel:
        disconnects = subs.flag("disconnect")
        kind = subs.text("type") or "tcp"
        if kind not in {"tcp", "unixio"}:
            raise BadLine(f"Unsupported socket type: {kind}")
        fd = subs.number("fd")
        if fd is not None:
            place = _socket(fd, "socket")
            return Channel(place, disconnects=disconnects, terminates=kind == "tcp")
        if kind == "unixio":
            return Channel(_unix_place(subs, "socket"), disconnects=disconnects)
        port = subs.number("port")
        if port is None:
            named = environ.get("TPM_PORT", "")
            if not named.isdecimal():
                raise BadLine("TPM_PORT is not set or contains an invalid integer value")
            port = int(named)
        return Channel(_tcp_place(subs, port, "TCP socket port"), disconnects=disconnects)

    def _key(self, option: str) -> KeyFile:
        subs = self._subs(option)
        assert subs is not None
        file, fd = subs.text("file"), subs.number("fd")
        pwdfile, pwdfd = subs.text("pwdfile"), subs.number("pwdfd")
        if file is None and fd is None and pwdfile is None and pwdfd is None:
            raise BadLine("Either file=, fd=, pwdfile=, or pwdfd= is required for key option")
        form = subs.text("format") or "hex"
        if form not in {"hex", "binary"}:
            raise BadLine(f"Unknown key format '{form}'")
        mode = subs.text("mode") or "aes-cbc"
        if mode not in _KEY_BYTES:
            raise BadLine(f"Unknown encryption mode '{mode}'")
        is_passphrase = file is None and fd is None
        kdf = subs.text("kdf") or "pbkdf2"
        if is_passphrase and kdf not in {"pbkdf2", "sha512"}:
            raise BadLine(f"Unknown kdf '{kdf}'")
        path = pwdfile if is_passphrase else file
        return KeyFile(
            file=None if path is None else Path(path),
            fd=None if path is not None else pwdfd if is_passphrase else fd,
            is_passphrase=is_passphrase,
            is_binary=form == "binary",
            size_bytes=_KEY_BYTES[mode],
            removes=subs.flag("remove"),
        )

    def _without_effect(self) -> tuple[str, ...]:
        seccomp = self._subs("seccomp")
        if seccomp is not None:
            action = seccomp.text("action") or "kill"
            if action not in {"kill", "log", "none"}:
                raise BadLine(f"Unsupported seccomp log action {action}")
        self._subs("migration")
        return tuple([f"--{name}" for name in ("migration", "seccomp") if self.has(name)])


_DATA_OPTIONS: Final = frozenset({"port", "server"})
_KEY_BYTES: Final = {"aes-cbc": 16, "aes-128-cbc": 16, "aes-256-cbc": 32}


def _unix_place(subs: Suboptions, what: str) -> UnixPlace:
    path = subs.text("path")
    if path is None:
        raise BadLine(f"Missing path and fd options for UnixIO {what}")
    mode = subs.number("mode")
    return UnixPlace(
        Path(path),
        SOCKET_MODE if mode is None else mode,
        subs.number("uid"),
        subs.number("gid"),
    )


def _tcp_place(subs: Suboptions, port: int | None, what: str) -> Place:
    if port is None or not 0 <= port <= _PORT_LAST:
        raise BadLine(f"{what} outside valid range")
    return TcpPlace(port, subs.text("bindaddr") or LOOPBACK, subs.text("ifname"))


def _port(given: str) -> int:
    # Base as strtoul(3) finds it: 0x, 0, or decimal.
    octal = given.startswith("0") and given.isdecimal()
    try:
        port = int(given, 8 if octal else 0)
    except ValueError:
        raise BadLine(f"Cannot parse socket port number '{given}'") from None
    if not 0 <= port <= _PORT_LAST:
        raise BadLine("Port is outside valid range")
    return port


def _socket(fd: int, what: str) -> Descriptor:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        is_socket = False
    if not is_socket:
        raise BadLine(f"Bad filedescriptor {fd} for {what}")
    return Descriptor(fd)


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        return False
