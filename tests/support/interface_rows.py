"""The rows of docs/interface.md: what a result backend does, by the part that does it."""

STATES = {
    "states": "Nine states with Celery's names, sets and precedence; names of your own are allowed.",
    "unknown id": "A task that nobody knows is PENDING, without a result.",
}

BACKEND = {
    "attributes": "The sets of states, `TimeoutError`, `subpolling_interval`, `supports_native_join`, "
    "`supports_autoexpire`, `persistent`, `retry_policy`.",
    "constructor": "Takes `app, serializer, max_cached_results, accept, expires, expires_type, url`; what is left out "
    "comes from `app.conf`. Any object with the few members of an app will do, or none.",
    "as_uri": "The URL; a password in it is hidden unless it is asked for.",
    "mark_as_started": "STARTED, with the keyword arguments as the result.",
    "mark_as_done": "Stores the result, unless told not to or the request ignores it; returns the part of a chord.",
    "mark_as_failure": "Stores the exception, returns the part of a chord, calls the errbacks of the request.",
    "mark_as_revoked": "Stores a `TaskRevokedError` and returns the part of a chord.",
    "mark_as_retry": "Stores as RETRY the exception because of which the task is tried again.",
    "errbacks": "One that takes more than one argument is called with request, exception and traceback. The others, "
    "and those that are not registered, are dispatched as a group with the id of the task. One that raises is logged, "
    "and the others are called all the same.",
    "chord_error_from_stack": "Calls the errbacks of a body and marks it as failed, on the backend of its task; what "
    "an errback raises becomes the failure.",
    "fail_from_current_stack": "Marks a task as failed by the exception in flight; keeps none of its frames alive.",
    "exceptions": "`prepare_exception` and `exception_to_python`: type, module and arguments by name, or the exception "
    "itself for pickle. What comes back is of the real class if that is imported here and an exception, else of one "
    "that is made for it; a name that belongs to anything else raises `SecurityError`.",
    "prepare_value, encode_result": "A handle of results is stored as a tuple, unless it is pickled.",
    "encode, decode": "Bytes that name their content type; one that is not accepted is not decoded. `decode_result` "
    "and `meta_from_decoded` bring exceptions back.",
    "prepare_expires": "None is the setting, a timedelta becomes seconds; converted by a type.",
    "prepare_persistent": "The argument, else the setting, else what the class says.",
    "store_result": "Stores what it returns. A SUCCESS is never overwritten by a late duplicate, which is decided in "
    "the transaction that writes.",
    "store_many": "Stores several results in one transaction, by the rules of `store_result`, and returns what that "
    "returns for each. If one cannot be stored, none is.",
    "get_state, get_result, ...": "`get_state` (`get_status`), `get_result`, `get_traceback` and `get_children` read "
    "the meta of a task.",
    "get_task_meta": "All that is known of a task; kept in a cache of those used last once it is SUCCESS.",
    "reload_task_result, ...": "`reload_task_result` and `reload_group_result` read past the cache and into it; "
    "`is_cached` looks into it.",
    "forget": "Drops a result from the cache and from the store.",
    "groups": "`save_group`, `restore_group`, `get_group_meta`, `delete_group`: a group is stored as the tuples of its "
    "results and comes back as a `GroupResult`.",
    "cleanup": "`cleanup` removes what has expired; `process_cleanup` closes what a worker process holds.",
    "on_task_call": "Nothing needs to travel with a task.",
    "add_to_chord": "Lets a chord that is running wait for one more part.",
    "on_chord_part_return": "Counts a part of a chord. What is no part of one is not counted.",
    "apply_chord, ...": "`ensure_chords_allowed`, `apply_chord`, `set_chord_size`: the start of a chord.",
    "fallback_chord_unlock": "For a store that cannot count: a task looks at the header until it is ready, and runs "
    "the body.",
    "current_task_children": "The tuples of the results that the running task has made.",
    "_ensure_not_eager": "Reading a result while tasks run eagerly, and are not stored, warns.",
    "flush": "Returns once everything that was stored so far survives a loss of power.",
    "backup": "Writes a copy of the store, as it is at one moment, while others go on.",
    "pickling": "A backend pickles to its class, URL and settings, and opens its store anew where it is loaded.",
    "missing operations": "What a class does not define raises NotImplementedError, which names class and operation.",
}

WAITING = {
    "wait_for": "Waits until a task has ended and returns its meta; `on_interval` is called between two looks.",
    "timeouts": "0 looks once; a result that is there wins over a timeout that has run out; time is measured by a "
    "clock, and pauses are not added up.",
    "wait_for_pending": "Waits for a result, calls back with it, raises what the task raised.",
    "iter_native": "Yields results as they end.",
    "wakes": "Whoever waits is woken when the result lands; `interval` is only a cap; an interruption ends it at once.",
    "wait_for_async": "Waits in an event loop, by the same rules as `wait_for`; being cancelled leaves nothing behind.",
    "as_completed": "Yields results as they end to an `async for`, each once.",
    "watch": "Yields the meta of a task at every change of state, to a `for` or an `async for`, until it has ended.",
    "pending results": "`add_pending_result`, `remove_pending_result` and `is_async`: whoever looks need not register.",
}

KEY_VALUE = {
    "prefixes": "`celery-task-meta-`, `celery-taskset-meta-`, `chord-unlock-`, a global one before; `key_t` is the "
    "type of a key.",
    "key functions": "`get_key_for_task`, `..._group`, `..._chord`: of text and UUIDs; an empty id raises ValueError.",
    "store operations": "`get, mget, set, delete, incr, expire` are all that a store supplies.",
    "_strip_prefix": "From a key back to the id.",
    "_filter_ready, _mget_to_results": "The results that are ready, from what `mget` returned: a mapping or not.",
    "get_many": "Yields `(id, meta)` as tasks become ready, those in the cache first, each once; takes `timeout`, "
    "`interval`, `on_message`, `on_interval`, `max_iterations` and `READY_STATES`.",
    "chord: order": "The last part joins the header in its order and dispatches the body with the list.",
    "chord: failure": "A part that failed fails the body with a `ChordError` that names it.",
    "chord: header": "A header that is gone, or cannot be restored, fails the body.",
    "chord: body": "A body that cannot be dispatched fails itself.",
    "chord: too many parts": "They are logged, and the body is not dispatched again.",
    "chord: keys": "They are deleted in the end, and expire by themselves if there is none.",
}

DISABLED = {
    "DisabledBackend": "Storing does nothing, the URI is `disabled://`; reading, waiting and chords raise "
    "NotImplementedError with a sentence that says how results are turned on.",
}

RESULTS = {
    "AsyncResult: get": "`get` (`wait`) waits and returns or raises; `maybe_throw` does so without waiting.",
    "AsyncResult: state": "`state` (`status`), `result` (`info`), `traceback`, `ready`, `successful`, `failed`, "
    "`date_done`.",
    "AsyncResult: extended": "`name`, `args`, `kwargs`, `worker`, `retries` and `queue`, where results are extended.",
    "AsyncResult: family": "`children`, `iterdeps`, `collect`, `parent`.",
    "AsyncResult: forget": "Deletes the result.",
    "AsyncResult: await": "`await result` waits without blocking others.",
    "AsyncResult: identity": "Equal and hashed by its id; pickles.",
    "as_tuple": "A handle as plain tuples; `result_from_tuple` makes it again, groups inside and lists included.",
    "join": "`join` and `join_native` return the results in order, or raise; `iterate` yields them as they end.",
    "group state": "`completed_count`, `ready`, `successful`, `failed`, `waiting`.",
    "group save": "`save`, `restore` and `delete` of a `GroupResult`.",
    "nesting": "Groups inside groups are waited for, counted and restored.",
}

APP = {
    "App: conf": "Settings by Celery's names; an unknown one raises.",
    "App: task": "`@app.task` registers a function under a name, with options.",
    "App: signature": "A mapping that any queue can carry, with `args`, `kwargs`, `options`, `link_error`, `set`, "
    "`clone`, `freeze`.",
    "App: dispatch": "Runs a task here and now; override it to use a queue.",
    "App: run": "What a worker does with a signature that it receives: run the task, store what comes of it.",
    "open_backend": "A path or URL becomes an `LMDBBackend`, `disabled://` a `DisabledBackend`.",
    "threads, forks": "A backend can be used from threads and across forks.",
    "no Celery": "Importing the package imports no celery, kombu or billiard, even where they are installed.",
}

SECTIONS = {
    "States": STATES,
    "Backend": BACKEND,
    "Waiting": WAITING,
    "KeyValueStoreBackend": KEY_VALUE,
    "DisabledBackend": DISABLED,
    "Results": RESULTS,
    "App": APP,
}

#: What the interface promises and the package does not do yet.
NOT_YET = {
    "waking": "A waiter wakes when its result lands. For now it looks again every `interval` seconds.",
}

#: Rows that are proven by tests which are about something larger: the names of these.
PROVEN_ELSEWHERE = {
    "states": [
        "test_a_state_is_named_as_it_is_spelt",
        "test_every_state_but_ignored_is_either_ready_or_not",
        "test_precedence_runs_from_success_to_pending_with_custom_states_in_between",
        "test_names_sets_and_precedence_are_those_of_celery",
    ],
    "add_to_chord": [
        "test_a_chord_waits_for_a_part_that_is_added_while_it_runs",
        "test_nothing_can_be_added_to_a_chord_that_has_ended_or_never_was",
    ],
    "on_chord_part_return": [
        "test_a_part_that_returns_again_does_not_count_again",
        "test_a_part_that_returns_in_several_processes_counts_once",
    ],
    "apply_chord, ...": [
        "test_the_body_of_an_empty_header_is_dispatched_at_once",
        "test_the_size_that_is_set_is_the_number_of_parts_that_are_waited_for",
    ],
    "fallback_chord_unlock": [
        "test_the_body_gets_the_results_in_order_once_all_are_there",
        "test_the_task_looks_again_after_a_while_as_long_as_a_part_is_missing",
        "test_groups_inside_the_header_and_chords_inside_chords_work",
    ],
    "chord: order": [
        "test_the_body_gets_the_results_in_the_order_of_the_header_whatever_order_they_come_in",
        "test_the_body_is_dispatched_when_the_last_part_returns_and_not_before",
    ],
    "chord: failure": [
        "test_a_part_that_fails_fails_the_body_by_its_name_and_its_exception",
        "test_a_failing_part_inside_a_group_is_named",
    ],
    "chord: header": [
        "test_a_header_that_is_gone_fails_the_body",
        "test_a_header_that_cannot_be_restored_fails_the_body",
    ],
    "chord: body": ["test_a_body_that_cannot_be_dispatched_fails"],
    "chord: too many parts": ["test_more_parts_than_the_header_has_do_not_dispatch_the_body_again"],
    "chord: keys": [
        "test_a_chord_that_has_ended_leaves_a_mark_that_expires_and_nothing_else",
        "test_the_keys_of_a_chord_that_never_ends_expire",
    ],
    "nesting": ["test_a_group_inside_the_header_becomes_a_list_inside_the_list"],
}
