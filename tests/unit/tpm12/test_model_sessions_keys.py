# SPDX-License-Identifier: Apache-2.0
"""Sessions, loaded keys and saved contexts against a model that was written from the tables alone.

The model knows what is in the slots and judges each command by itself; engine and model must agree
on every return code and on every list of handles, whatever the order of commands, power cycles and
restarts of the daemon. The slots are few, so that limits are reached and left all the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.tpm12.constants import Ordinal, ReservedHandle, ResourceType, ReturnCode
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.wire import U32
from tests.unit.tpm12.keychain import USAGE_AUTH, WRONG_AUTH, make_key, signing_key
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation
from tpmcore.tss12.sessions import with_secret

OK = ReturnCode.SUCCESS
SESSIONS, KEYS, CONTEXTS = 3, 2, 2
OWNER, SRK, ANY = "owner", "srk", "any entity"
DIGEST = b"20 bytes to be signed"[:20]
NUMBER = st.integers(min_value=0, max_value=7)
"""Chooses among what there is just now."""


@dataclass
class Open:
    """A session of the model: what it is bound to, and what the client knows of it."""

    bound_to: str
    client: tss12.Session


@dataclass
class Saved:
    """A session outside of the TPM."""

    session: Open
    blob: bytes
    loadable: bool = True
    """False once loaded or flushed."""
    of_this_boot: bool = True


@dataclass
class Model:
    """What is in the slots; keys are known by name."""

    sessions: dict[int, Open] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    saved: list[Saved] = field(default_factory=list)
    key_blobs: list[tuple[int, str, bytes]] = field(default_factory=list)

    @property
    def outstanding(self) -> int:
        """Number of saved sessions that may come back."""
        return sum(saved.loadable for saved in self.saved)

    def unload(self, handle: int) -> None:
        """Take a key out, and every session on it with it."""
        name = self.keys.pop(handle)
        self.sessions = {h: s for h, s in self.sessions.items() if s.bound_to != name}

    def startup(self) -> None:
        """Startup(CLEAR) after a loss of power."""
        self.sessions.clear()
        self.keys.clear()
        for saved in self.saved:
            saved.loadable = saved.of_this_boot = False


class SessionsAndKeys(RuleBasedStateMachine):
    """A chip and the model, side by side."""

    chip: Chip
    model: Model
    wrapped: dict[str, Key]

    @initialize()
    def begin(self) -> None:
        """Take ownership and make two keys."""
        profile = Profile(max_sessions=SESSIONS, max_keys=KEYS, max_saved_contexts=CONTEXTS)
        self.chip = make_owned_chip(profile)
        self.wrapped = {name: make_key(self.chip, signing_key()) for name in ("one", "two")}
        self.model = Model()

    def outcome(self, conversation: Conversation[object]) -> object:
        """Return the result of a conversation, or its return code if it is an error."""
        # Far enough for every lockout to be over.
        self.chip.ticks.advance(3600)
        try:
            return self.chip.run(conversation)
        except TpmError as error:
            return error.code

    def _pick(self, number: int) -> Open | None:
        sessions = list(self.model.sessions.values())
        return sessions[number % len(sessions)] if sessions else None

    def _key(self, number: int) -> int:
        """Return a handle, one that is not there if none is."""
        keys = list(self.model.keys)
        return keys[number % len(keys)] if keys else 0x1234

    def _opened(self, found: object, bound_to: str) -> None:
        if len(self.model.sessions) >= SESSIONS:
            assert found == ReturnCode.RESOURCES
            return
        assert isinstance(found, tss12.Session)
        assert found.handle not in self.model.sessions
        self.model.sessions[found.handle] = Open(bound_to, found)

    @rule()
    def open_oiap(self) -> None:
        """Open a session for any entity."""
        self._opened(self.outcome(tss12.oiap()), ANY)

    @rule(owner=st.booleans())
    def open_osap(self, owner: bool) -> None:
        """Open a session on the owner or the storage root key."""
        random = self.chip.client_random
        if owner:
            self._opened(self.outcome(tss12.osap_owner(OWNER_AUTH, random=random)), OWNER)
        else:
            conversation = tss12.osap_key(ReservedHandle.SRK, SRK_AUTH, random=random)
            self._opened(self.outcome(conversation), SRK)

    @rule(number=NUMBER)
    def open_osap_on_a_key(self, number: int) -> None:
        """Open a session on a loaded key, if there is one."""
        handle = self._key(number)
        conversation = tss12.osap_key(handle, USAGE_AUTH, random=self.chip.client_random)
        found = self.outcome(conversation)
        name = self.model.keys.get(handle)
        if name is None and len(self.model.sessions) < SESSIONS:
            assert found == ReturnCode.INVALID_KEYHANDLE
        else:
            self._opened(found, name or "")

    @precondition(lambda self: self.model.sessions)
    @rule(number=NUMBER, key=NUMBER, owner=st.booleans(), right=st.booleans(), stale=st.booleans())
    def use(self, number: int, key: int, owner: bool, right: bool, stale: bool) -> None:
        """Use a session for the owner or a key: it goes on after a success, no error leaves it."""
        session = self._pick(number)
        assert session is not None
        client = session.client
        handle = self._key(key)
        entity = OWNER if owner else self.model.keys.get(handle)
        if stale:
            client.nonce_even = bytes(20)
        secret = (OWNER_AUTH if owner else USAGE_AUTH) if right else WRONG_AUTH
        if session.bound_to != ANY:
            secret = client.shared_secret if right else WRONG_AUTH
            client.shared_secret = secret
        random = self.chip.client_random
        conversation: Conversation[object] = (
            with_secret(
                Ordinal.OWNER_READ_INTERNAL_PUB,
                PubKey.read,
                secret,
                random=random,
                parameters=U32.write(ReservedHandle.SRK),
                session=client,
            )
            if owner
            else tss12.sign(handle, DIGEST, key_auth=secret, random=random, session=client)
        )
        found = self.outcome(conversation)
        if entity is None:
            expected = ReturnCode.INVALID_KEYHANDLE
        elif right and not stale and session.bound_to in (ANY, entity):
            assert not isinstance(found, int)
            assert client.is_open
            return
        else:
            expected = ReturnCode.AUTHFAIL
        assert found == expected
        del self.model.sessions[client.handle]

    @rule(name=st.sampled_from(["one", "two"]))
    def load(self, name: str) -> None:
        """Load a key; the same key may be in several slots."""
        conversation = tss12.load_key2(
            ReservedHandle.SRK,
            self.wrapped[name],
            parent_auth=SRK_AUTH,
            random=self.chip.client_random,
        )
        found = self.outcome(conversation)
        if len(self.model.sessions) >= SESSIONS:
            assert found == ReturnCode.RESOURCES
        elif len(self.model.keys) >= KEYS:
            assert found == ReturnCode.NOSPACE
        else:
            assert isinstance(found, int)
            assert found not in self.model.keys
            self.model.keys[found] = name

    @rule(number=NUMBER)
    def flush_key(self, number: int) -> None:
        """Drop a key, and the sessions on it."""
        handle = self._key(number)
        found = self.outcome(tss12.flush_specific(handle, ResourceType.KEY))
        if handle in self.model.keys:
            assert found is None
            self.model.unload(handle)
        else:
            assert found == ReturnCode.BAD_PARAMETER

    @rule(number=NUMBER)
    def flush_session(self, number: int) -> None:
        """End a session."""
        session = self._pick(number)
        handle = 0x1234 if session is None else session.client.handle
        found = self.outcome(tss12.flush_specific(handle, ResourceType.AUTH))
        assert found == (ReturnCode.INVALID_AUTHHANDLE if session is None else None)
        self.model.sessions.pop(handle, None)

    @precondition(lambda self: self.model.sessions)
    @rule(number=NUMBER)
    def save_session(self, number: int) -> None:
        """Move a session out."""
        session = self._pick(number)
        assert session is not None
        found = self.outcome(tss12.save_context(session.client.handle, ResourceType.AUTH))
        if self.model.outstanding >= CONTEXTS:
            assert found == ReturnCode.NOCONTEXTSPACE
            return
        assert isinstance(found, bytes)
        del self.model.sessions[session.client.handle]
        self.model.saved.append(Saved(session, found))

    @precondition(lambda self: self.model.saved)
    @rule(number=NUMBER, key=NUMBER)
    def load_session(self, number: int, key: int) -> None:
        """Take a session in again: once, while what it is bound to is there."""
        model = self.model
        saved = model.saved[-1 - number % len(model.saved)]
        session = saved.session
        handle = self._key(key)
        on_key = session.bound_to in self.wrapped
        entity = handle if on_key else ReservedHandle.SRK
        found = self.outcome(tss12.load_context(saved.blob, entity_handle=entity))
        if not saved.of_this_boot:
            assert found == ReturnCode.BADCONTEXT
        elif on_key and handle not in model.keys:
            assert found == ReturnCode.BAD_HANDLE
        elif on_key and model.keys[handle] != session.bound_to:
            assert found == ReturnCode.RESOURCEMISSING
        elif not saved.loadable:
            assert found == ReturnCode.BADCONTEXT
        elif len(model.sessions) >= SESSIONS:
            assert found == ReturnCode.RESOURCES
        else:
            assert isinstance(found, int)
            assert found == session.client.handle or session.client.handle in model.sessions
            saved.loadable = False
            session.client.handle = found
            model.sessions[found] = session

    @precondition(lambda self: self.model.keys)
    @rule(number=NUMBER)
    def save_key(self, number: int) -> None:
        """Copy a key out; it stays loaded."""
        handle = self._key(number)
        blob = self.outcome(tss12.save_context(handle, ResourceType.KEY))
        assert isinstance(blob, bytes)
        self.model.key_blobs.append((handle, self.model.keys[handle], blob))

    @precondition(lambda self: self.model.key_blobs)
    @rule(number=NUMBER)
    def load_saved_key(self, number: int) -> None:
        """Take a key in again, any number of times, after a loss of power too."""
        model = self.model
        old, name, blob = model.key_blobs[-1 - number % len(model.key_blobs)]
        found = self.outcome(tss12.load_context(blob))
        if len(model.keys) >= KEYS:
            assert found == ReturnCode.NOSPACE
            return
        assert isinstance(found, int)
        assert found == old or old in model.keys
        assert found not in model.keys
        model.keys[found] = name

    @rule()
    def power_cycle(self) -> None:
        """Cut the power and start up with CLEAR."""
        self.chip.power_cycle()
        self.model.startup()

    @rule()
    def restart(self) -> None:
        """Kill the daemon and take everything up again."""
        self.chip.restart()

    @invariant()
    def slots_are_told_as_they_are(self) -> None:
        """What capabilities say is what the model has."""
        run, model = self.chip.run, self.model
        assert sorted(run(tss12.handles(ResourceType.AUTH))) == sorted(model.sessions)
        assert sorted(run(tss12.handles(ResourceType.KEY))) == sorted(model.keys)


TestSessionsAndKeys = SessionsAndKeys.TestCase
TestSessionsAndKeys.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
