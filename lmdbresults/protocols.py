"""What results and apps ask of a backend: a protocol, because the backends import the files of both."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

__all__ = ["Meta", "OnInterval", "OnMessage", "ResultBackend"]

#: What is known of a task: ``status``, ``result``, ``traceback``, ``children``, ``date_done``, ...
Meta: TypeAlias = dict[str, Any]
#: Called now and then during a wait. What it raises ends the wait.
OnInterval: TypeAlias = Callable[[], Any]
#: Called with each state of a task that a wait comes to see.
OnMessage: TypeAlias = Callable[[Meta], Any]


class ResultBackend(Protocol):
    """The part of a backend that results and apps use. See `lmdbresults.backends.base` for what the methods do."""

    def get_task_meta(self, task_id: str) -> Meta: ...

    def forget(self, task_id: str) -> None: ...

    def wait_for_pending(
        self,
        result: Any,
        *,
        timeout: float | None,
        interval: float,
        on_interval: OnInterval | None,
        callback: Callable[[str, Any], Any] | None,
        propagate: bool,
        on_message: OnMessage | None,
    ) -> Any: ...

    async def wait_for_async(self, task_id: str) -> Meta: ...

    def iter_native(
        self,
        result: Any,
        *,
        timeout: float | None,
        interval: float,
        on_message: OnMessage | None,
        on_interval: OnInterval | None,
    ) -> Iterator[tuple[str, Meta]]: ...

    def save_group(self, group_id: str, result: Any) -> Any: ...

    def restore_group(self, group_id: str) -> Any: ...

    def delete_group(self, group_id: str) -> None: ...

    def mark_as_done(self, task_id: str, result: Any, request: Any) -> None: ...

    def mark_as_failure(self, task_id: str, exc: BaseException, traceback: str | None, request: Any) -> None: ...

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any) -> None: ...
