"""The bodies of the chords of an `App`: how they are read, sent, and failed."""

import logging
from typing import Any, Protocol

from lmdbresults import states
from lmdbresults.app import Request, Signature
from lmdbresults.errors import ChordError

__all__ = ["Bodies"]

logger = logging.getLogger(__name__)


class BodyBackend(Protocol):
    """The part of a backend that `Bodies` uses."""

    app: Any

    def decode(self, payload: bytes | None) -> Any: ...

    def get_state(self, task_id: str) -> str: ...

    def chord_error_from_stack(self, callback: Signature, exc: BaseException) -> None: ...

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None: ...


class Bodies:
    """The bodies of the chords of one backend. See `lmdbresults.backends.chords.ChordBodies`."""

    def __init__(self, backend: BodyBackend) -> None:
        self._backend = backend

    def read(self, data: bytes) -> Signature:
        """Return the signature that `BaseBackend.encode` encoded."""
        return self.signature(self._backend.decode(data))

    def signature(self, body: Any) -> Signature:
        """Return a signature, or the mapping that it was, as a signature of this app."""
        signature: Signature = self._backend.app.signature(body)
        return signature

    def has_run(self, body: Signature) -> bool:
        """Return whether a body has a result."""
        return body.id is not None and self._backend.get_state(body.id) in states.READY_STATES

    def send(self, body: Signature, values: list[Any]) -> None:
        """Dispatch a body."""
        self._backend.app.dispatch(body, (values,))

    def fail(self, body: Signature, message: str, cause: BaseException | None, part: Any = None) -> None:
        """Store a `ChordError` as the result of a body, call its errbacks, and return it as the part that it may be."""
        logger.error("The body %s[%s] of a chord failed: %s", body.task, body.id, message)
        error = ChordError(message)
        error.__cause__ = cause
        self._backend.chord_error_from_stack(body, error)
        request = Request.of(body)
        if request.chord:
            self._backend.on_chord_part_return(request, states.FAILURE, error)
