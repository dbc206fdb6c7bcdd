"""The end of a task as one commit, if its message comes from the file of its results."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery, chain, chord, group, shared_task, states
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from lmdbresults.errors import StoreBusy, StoreFull
from lmdbresults.store import queues
from lmdbresults.testing import die_at
from tests.support.broker_file import OneByOne, one_file
from tests.support.celery_needed import needs_callback_marks
from tests.support.celery_tasks import make_app
from tests.support.processes import FORKS_WITH_THREADS, ChildDied, in_child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

#: What the tasks of a test were called with, in the order of their calls.
calls: list[Any] = []


@shared_task(name="ends.step", bind=True, acks_late=True)
def step(self: Any, *args: Any) -> Any:
    calls.append(args)
    return args[0] if args else None


@shared_task(name="ends.early", bind=True)
def early(self: Any, *args: Any) -> Any:
    calls.append(args)
    return args[0] if args else None


@shared_task(name="ends.gather", acks_late=True)
def gather(values: list[Any]) -> int:
    calls.append(values)
    return len(values)


@shared_task(name="ends.fails", bind=True, acks_late=True)
def fails(self: Any) -> None:
    raise ValueError("as expected")


@shared_task(name="ends.dead_letter", acks_late=True, acks_on_failure_or_timeout=False)
def rejected_if_it_fails() -> None:
    raise ValueError("as expected")


@shared_task(name="ends.stubborn", bind=True, acks_late=True)
def stubborn(self: Any) -> Any:
    if self.request.retries == 0:
        raise self.retry(countdown=0, exc=ValueError("at first"))
    return self.request.retries


@shared_task(name="ends.quiet", bind=True, acks_late=True, ignore_result=True)
def quietly_stubborn(self: Any) -> None:
    calls.append(self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@shared_task(name="ends.replaced", bind=True, acks_late=True)
def replaced(self: Any, times: int) -> Any:
    raise self.replace(step.s(1) if times == 1 else group(step.s(number) for number in range(times)))


@shared_task(name="ends.raises", bind=True, acks_late=True)
def raises(self: Any, what: str) -> None:
    self.retry(countdown=0, throw=False)
    raise {"ignore": Ignore(), "reject": Reject(requeue=False), "requeue": Reject(requeue=True)}[what]


@shared_task(name="ends.publishes", acks_late=True)
def publishes(path: str) -> int:
    step.delay("from the body")
    state = step.app.backend.store.queues.state("celery")
    return int(state.ready)


@shared_task(name="ends.errback", acks_late=True)
def sent_errback(task_id: str) -> None:
    calls.append(("errback", task_id))


@shared_task(name="ends.called_errback")
def called_errback(request: Any, exc: BaseException, traceback: Any) -> None:
    calls.append(("called", AsyncResult(request.id).state))
    step.delay("from the errback")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "celery.lmdb"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Celery]]:
    made: list[Celery] = []

    def make(**settings: Any) -> Celery:
        app = make_app(one_file(path, **settings))
        app.set_current()
        app.set_default()
        made.append(app)
        return app

    yield make
    for app in made:
        assert app.backend.store.check() == []
        app.backend.close()
        app.close()


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    calls.clear()
    return make()


@pytest.fixture
def worker(app: Celery) -> Iterator[OneByOne]:
    worker = OneByOne(app)
    yield worker
    worker.close()


def commits(app: Celery, work: Callable[[], object]) -> int:
    before = app.backend.store.moment()
    work()
    return int(app.backend.store.moment() - before)


def declare(app: Celery) -> None:
    """Make the queue, as a worker does."""
    with app.connection_for_write() as connection:
        app.amqp.queues["celery"](connection.default_channel).declare()


def give_away(app: Celery, message: Any) -> None:
    """Return a message to its queue, as if its worker had been taken for dead."""
    assert app.backend.store.queues.requeue(message.delivery_tag)


# -- one commit ----------------------------------------------------------------------------------------------------


LINKS: dict[str, list[Any]] = {
    "a link": [step.s("link")],
    "links": [step.s("one"), step.s("two")],
    "a group": [group(step.s(1), step.s(2))],
    "a chain": [chain(step.s(), step.s())],
}


@needs_callback_marks
@pytest.mark.parametrize("links", LINKS)
def test_result_links_and_acknowledgement_are_one_commit(app: Celery, worker: OneByOne, links: str) -> None:
    result = step.s(5).apply_async(link=LINKS[links])
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 1
    assert result.get(timeout=0) == 5
    assert not worker.is_held(message)
    worker.run_all()
    assert len(calls) == (2 if links == "a link" else 3)


@needs_callback_marks
def test_the_next_step_of_a_chain_is_sent_with_the_result(app: Celery, worker: OneByOne) -> None:
    result = chain(step.s(1), step.s(2), step.s(3)).apply_async()
    for _ in range(3):
        message = worker.take()
        assert commits(app, lambda message=message: worker.work(message)) == 1
    assert (result.get(timeout=0), worker.waiting()) == (1, 0)
    assert calls == [(1,), (1, 2), (1, 3)]


@needs_callback_marks
def test_links_of_a_task_that_is_acknowledged_early_are_sent_with_its_result(app: Celery, worker: OneByOne) -> None:
    early.s(5).apply_async(link=step.s("link"))
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 2  # the acknowledgement was the first
    assert worker.run_all() == ["ends.step"]


@needs_callback_marks
def test_a_soft_time_limit_just_after_the_commit_sends_no_link_twice(
    app: Celery, worker: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = app.backend.store
    update, interrupted = store.update, []

    def update_and_be_interrupted(operation: Any) -> Any:
        done = update(operation)
        if operation.__name__ == "write" and not interrupted:
            interrupted.append(operation)
            raise SoftTimeLimitExceeded
        return done

    result = early.s(5).apply_async(link=step.s("link"))
    with monkeypatch.context() as patches:
        patches.setattr(store, "update", update_and_be_interrupted)
        worker.run()
    assert len(interrupted) == 1
    assert result.get(timeout=0) == 5
    assert worker.run_all() == ["ends.step"]


def test_a_failure_its_errbacks_and_the_acknowledgement_are_one_commit(app: Celery, worker: OneByOne) -> None:
    result = fails.s().apply_async(link_error=sent_errback.s(), link=step.s("not sent"))
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 1
    assert result.state == states.FAILURE
    assert worker.run_all() == ["ends.errback"]
    assert calls == [("errback", result.id)]


def test_an_errback_that_is_called_sees_the_failure(app: Celery, worker: OneByOne) -> None:
    fails.s().apply_async(link_error=called_errback.s())
    worker.run()
    assert calls == [("called", states.FAILURE)]
    assert worker.run_all() == ["ends.step"]


def test_the_failure_of_a_chain_and_its_errback_are_one_commit(app: Celery, worker: OneByOne) -> None:
    result = chain(fails.si(), step.s(), step.s()).apply_async(link_error=sent_errback.s())
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 1
    assert [result.state, result.parent.state, result.parent.parent.state] == [states.FAILURE] * 3


def test_a_task_that_is_rejected_if_it_fails_goes_to_the_dead_letters(app: Celery, worker: OneByOne) -> None:
    store = app.backend.store
    result = rejected_if_it_fails.delay()
    store.queues.declare("dead")
    store.queues.declare("celery", queues.Arguments(dead_letter_key="dead"))
    worker.run()
    assert (result.state, worker.waiting("dead"), worker.waiting()) == (states.FAILURE, 1, 0)


def test_a_retry_is_sent_with_its_state_and_the_acknowledgement(app: Celery, worker: OneByOne) -> None:
    result = stubborn.delay()
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 1
    assert (result.state, worker.waiting(), worker.is_held(message)) == (states.RETRY, 1, False)
    worker.run()
    assert result.get(timeout=0) == 1


def test_a_retry_of_a_task_without_result_is_sent_with_the_acknowledgement(app: Celery, worker: OneByOne) -> None:
    quietly_stubborn.delay()
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 1
    assert worker.waiting() == 1
    worker.run_all()
    assert calls == [0, 1]


@pytest.mark.parametrize("times", [1, 3])
def test_a_replacement_is_sent_with_the_acknowledgement(app: Celery, worker: OneByOne, times: int) -> None:
    result = replaced.delay(times)
    message = worker.take()
    worker.work(message)
    assert (worker.waiting(), worker.is_held(message)) == (times, False)
    worker.run_all()
    assert result.get(timeout=0) == (1 if times == 1 else [0, 1, 2])


@pytest.mark.parametrize(("what", "left"), [("ignore", 1), ("reject", 1), ("requeue", 2)])
def test_what_a_task_sends_before_it_is_ignored_or_rejected_is_sent(
    app: Celery, worker: OneByOne, what: str, left: int
) -> None:
    raises.delay(what)
    message = worker.run()
    assert (worker.waiting(), worker.is_held(message)) == (left, False)


def test_what_a_body_publishes_is_published_at_once(app: Celery, worker: OneByOne) -> None:
    result = publishes.delay("")
    worker.run()
    assert result.get(timeout=0) == 1


def test_the_body_of_a_chord_is_sent_by_the_commit_that_ends_the_chord(app: Celery, worker: OneByOne) -> None:
    result = chord([step.s(1), step.s(2)], gather.s()).apply_async()
    worker.run()
    message = worker.take()
    assert commits(app, lambda: worker.work(message)) == 2  # result, part, claim, acknowledgement; then body and end
    assert worker.run_all() == ["ends.gather"]
    assert result.get(timeout=0) == 2


# -- the fence -----------------------------------------------------------------------------------------------------


SENT: dict[str, Callable[[], Any]] = {
    "link": lambda: step.s(5).apply_async(link=step.s("link")),
    "chain": lambda: chain(step.s(5), step.s(6)).apply_async(),
    "errback": lambda: fails.s().apply_async(link_error=sent_errback.s()),
    "called errback": lambda: fails.s().apply_async(link_error=called_errback.s()),
    "retry": lambda: stubborn.delay(),
    "quiet retry": lambda: quietly_stubborn.delay(),
    "replace": lambda: replaced.delay(1),
    "chord": lambda: chord([step.s(1)], gather.s()).apply_async(),
}


def marked(names: Iterable[str]) -> list[Any]:
    """Return names as parameters of a test, those of what older versions of Celery do not mark with a condition."""
    return [pytest.param(name, marks=needs_callback_marks if name in ("link", "chain") else ()) for name in names]


@pytest.mark.parametrize("shape", marked(SENT))
def test_nothing_of_an_end_happens_if_the_message_was_given_to_another_worker(
    app: Celery, worker: OneByOne, shape: str
) -> None:
    result = SENT[shape]()
    first = result.parent or result
    message = worker.take()
    give_away(app, message)
    worker.work(message)
    assert worker.waiting() == 1  # the message itself
    assert not isinstance(first, AsyncResult) or first.state == states.PENDING
    assert ("called", states.PENDING) not in calls


def test_a_lost_process_that_had_ended_its_task_is_no_failure(app: Celery, worker: OneByOne) -> None:
    result = stubborn.delay()
    message = worker.take()
    in_child(worker.work, message)  # the message of the retry waits
    context = _context(message, link_error=[sent_errback.s()])
    app.backend.mark_as_failure(result.id, WorkerLostError("lost"), request=context)
    assert (result.state, worker.waiting()) == (states.RETRY, 1)


def test_a_lost_process_that_had_not_ended_its_task_is_a_failure(app: Celery, worker: OneByOne) -> None:
    result = stubborn.delay()
    message = worker.take()
    context = _context(message, link_error=[sent_errback.s()])
    app.backend.mark_as_failure(result.id, WorkerLostError("lost"), request=context)
    assert (result.state, worker.waiting(), worker.is_held(message)) == (states.FAILURE, 1, False)
    message.ack()  # which the worker does, or has done already, and finds nothing to do


def test_a_worker_that_dies_at_the_failure_of_a_lost_process_calls_errbacks_once(tmp_path: Path, app: Celery) -> None:
    declare(app)
    result = stubborn.delay()

    def work() -> None:
        die_at("task ended", tmp_path / "flag")
        message = OneByOne(app).take()
        context = _context(message, link_error=[sent_errback.s()])
        app.backend.mark_as_failure(result.id, WorkerLostError("lost"), request=context)

    with pytest.raises(ChildDied):
        in_child(work)
    app.backend.store.queues.recover()
    assert (result.state, left_in(app)) == (states.FAILURE, ["ends.errback"])


def _context(message: Any, link_error: list[Any]) -> Any:
    return Context(
        message.headers, properties=message.properties, delivery_info=message.delivery_info, errbacks=link_error
    )


# -- what goes wrong -----------------------------------------------------------------------------------------------


@needs_callback_marks
def test_a_message_goes_back_to_its_queue_although_the_store_is_busy(
    app: Celery, worker: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [StoreFull("no space"), StoreBusy("another transaction"), StoreBusy("another transaction")]
    requeue = queues.TransactionalQueues.requeue

    def refuse(*args: Any) -> None:
        raise refusals.pop(0)

    def requeue_at_last(*args: Any) -> bool:
        return requeue(*args) if not refusals else refuse()  # type: ignore[func-returns-value, return-value]

    step.s(5).apply_async(link=step.s("link"))
    message = worker.take()
    monkeypatch.setattr("lmdbresults.integrations.celery.ends._PAUSE", 0.0)
    monkeypatch.setattr(queues, "publish", refuse)
    monkeypatch.setattr(queues.TransactionalQueues, "requeue", requeue_at_last)
    with pytest.warns(RuntimeWarning, match="no space"):
        worker.work(message)
    assert (refusals, worker.waiting(), worker.is_held(message)) == ([], 1, False)


@needs_callback_marks
def test_a_message_goes_back_to_its_queue_if_its_end_cannot_be_written(
    app: Celery, worker: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = step.s(5).apply_async(link=step.s("link"))
    message = worker.take()
    with monkeypatch.context() as patch:

        def full(*args: Any) -> None:
            raise StoreFull("no space")

        patch.setattr(queues, "publish", full)
        with pytest.warns(RuntimeWarning, match="no space"):
            worker.work(message)
    assert (result.state, worker.waiting(), worker.is_held(message)) == (states.PENDING, 1, False)
    assert worker.run_all() == ["ends.step", "ends.step"]
    assert result.get(timeout=0) == 5


def test_a_task_ends_in_a_full_store_if_its_result_is_smaller_than_its_message(
    make: Callable[..., Celery], path: Path
) -> None:
    calls.clear()
    url = f"lmdb://{path}?durability=none&max_size=1048576"
    app = make(broker_url=url, result_backend=url)
    worker = OneByOne(app)
    results: list[AsyncResult] = []
    with pytest.raises(OperationalError):
        fill(results)
    for _ in results:
        worker.run()
    assert {result.state for result in results} == {states.SUCCESS}
    assert len(calls) == len(results) > 100
    worker.close()


def fill(results: list[AsyncResult]) -> None:
    while True:
        results.append(step.s("x" * 300).apply_async(retry=False))


def test_a_result_that_cannot_be_encoded_sends_no_links(app: Celery, worker: OneByOne) -> None:
    result = not_json.s().apply_async(link=step.s("link"), link_error=sent_errback.s())
    worker.run()
    assert (result.state, worker.run_all()) == (states.FAILURE, ["ends.errback"])


@shared_task(name="ends.not_json", acks_late=True)
def not_json() -> Any:
    return object()


@pytest.mark.parametrize(
    ("backend", "broker"),
    [("other.lmdb", "celery.lmdb"), ("celery.lmdb", "other.lmdb")],
)
def test_queue_and_results_in_two_files_work(
    tmp_path: Path, make: Callable[..., Celery], backend: str, broker: str
) -> None:
    calls.clear()
    app = make(broker_url=f"lmdb://{tmp_path}/{broker}", result_backend=f"lmdb://{tmp_path}/{backend}")
    worker = OneByOne(app)
    result = chord([step.s(1), step.s(2)], gather.s()).apply_async()
    step.s(5).apply_async(link=step.s("link"))
    worker_queue = worker.channel.store.queues
    while worker_queue.state("celery").ready:
        worker.run()
    assert (result.get(timeout=0), len(calls)) == (2, 5)
    worker.close()


# -- kills ---------------------------------------------------------------------------------------------------------

#: Which messages are left where the process dies: the first is that of the task, the others are those that it sends.
SHAPES: dict[str, tuple[Callable[[], Any], list[str], list[str]]] = {
    "link": (lambda: step.s(5).apply_async(link=step.s("link")), ["ends.step"], ["ends.step"]),
    "chain": (lambda: chain(step.s(5), gather.s()).apply_async(), ["ends.step"], ["ends.gather"]),
    "errback": (
        lambda: fails.s().apply_async(link_error=sent_errback.s()),
        ["ends.fails"],
        ["ends.errback"],
    ),
    "retry": (lambda: stubborn.delay(), ["ends.stubborn"], ["ends.stubborn"]),
    "quiet retry": (lambda: quietly_stubborn.delay(), ["ends.quiet"], ["ends.quiet"]),
    "replace": (lambda: replaced.delay(2), ["ends.replaced"], ["ends.step", "ends.step"]),
}


@pytest.mark.parametrize("point", ["task ends", "task ended"])
@pytest.mark.parametrize("shape", marked(SHAPES))
def test_a_process_that_dies_at_the_end_of_a_task_has_written_all_of_it_or_nothing(
    tmp_path: Path, app: Celery, shape: str, point: str
) -> None:
    send, before, after = SHAPES[shape]
    declare(app)
    send()

    def work() -> None:
        die_at(point, tmp_path / "flag")
        OneByOne(app).run()

    with pytest.raises(ChildDied):
        in_child(work)
    store = app.backend.store
    store.queues.recover()
    held = store.view(lambda txn: list(queues.unacknowledged(txn)))
    assert (held, left_in(app)) == ([], before if point == "task ends" else after)


@pytest.mark.parametrize("point", ["chord claimed", "values joined", "body sent", "chord ended"])
def test_a_process_that_dies_at_the_end_of_a_chord_leaves_one_body(tmp_path: Path, app: Celery, point: str) -> None:
    declare(app)
    result = chord([step.s(1), step.s(2)], gather.s()).apply_async()

    def work() -> None:
        die_at(point, tmp_path / "flag")
        OneByOne(app).run_all()

    with pytest.raises(ChildDied):
        in_child(work)
    app.backend.store.queues.recover()
    app.backend.chords.recover(now=True)
    assert left_in(app) == ["ends.gather"]
    worker = OneByOne(app)
    worker.run_all()
    worker.close()
    assert result.get(timeout=0) == 2


def left_in(app: Celery) -> list[str]:
    """Return the names of the tasks that wait in the queue."""
    waiting = app.backend.store.view(lambda txn: queues.peek(txn, "celery"))
    names = (re.search(rb"ends\.\w+", each.body) for each in waiting)
    return [name[0].decode() for name in names if name]
