"""The effects of the end of a task where its results lie on a server, which has no transaction over all of them.

Each is written for itself, and each is idempotent: a success is never replaced, and a part counts once. A part comes
with the result of its task in one step. So a worker that is killed between two steps leaves nothing half done that the
task, run again, would not complete.
"""

from functools import partial

from celery.exceptions import SoftTimeLimitExceeded

from lmdbresults.integrations.celery.effects import Effects, logger

__all__ = ["StepwiseEffects"]


class StepwiseEffects(Effects):
    """Effects that are written one after the other."""

    def commit(self) -> None:
        """Write all, parts first. The exception of a soft time limit does not undo the end of a task: it has ended."""
        try:
            self._write_all()
        except SoftTimeLimitExceeded:
            if not self.is_written:
                self._write_all()
        self.backend.chords.recover()

    def deferred(self) -> None:
        """Write all now: nothing can be written in the transaction that ends the chord."""
        if self:
            self.commit()

    def write_results(self) -> bool:
        """Write the noted results already; return False if the effects may not happen."""
        if not self._may_happen(self.backend.store):
            return False
        for result in self.results:
            self.backend.chords.retried(partial(self.backend.records.put, self.backend.store, *result))
        return True

    def _write_all(self) -> None:
        if not self._may_happen(self.backend.store):
            logger.warning("The end of a task was not written: the task has ended before.")
            self.is_written = True
            return
        while self.parts:
            request, state, record, body = self.parts[0]
            result = next((result for result in self.results if result.task_id == request.id), None)
            stored = result and self.backend.records.to_store(request.id, result.record, result.ttl)
            self.backend.chords.part_returned(request, state, record, body, stored)
            del self.parts[0]
            if result is not None:
                self.results.remove(result)
        while self.results:
            self.backend.chords.retried(partial(self.backend.records.put, self.backend.store, *self.results[0]))
            del self.results[0]
        self.is_written = True
