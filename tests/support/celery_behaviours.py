"""What the tests of Celery 5.7.0 in ``t/unit/backends/test_base.py`` ask of a backend, in our words and in their order.

Each behaviour has tests of ours that ask the same, or a reason why there are none, or why there are more.
"""

from typing import NamedTuple


class Behaviour(NamedTuple):
    """What some of Celery's tests ask."""

    asks: str
    celery: str
    """Their names, without ``test_``, parted by spaces."""
    tests: tuple[str, ...] = ()
    why: str = ""


CANVAS = "Chains, groups as bodies and stamps are Celery's canvas; the App here knows tasks, groups and chords. "
IN_CELERY = "The Celery backend inherits Celery's own way: `tests/celery`."
ROUTES = "Queues and routes are Celery's: here a signature's options go to `dispatch` as they are. " + IN_CELERY
EXISTS = "There is no `task_result_exists` in this interface: `get_state` of what was never stored is PENDING."

SERIALIZATION = [
    Behaviour(
        "A cache that is turned off takes everything and keeps nothing.",
        "nulldict",
        ("test_the_size_of_the_cache_is_none_or_some_or_any",),
    ),
    Behaviour(
        "A class is made for an exception that is not imported.",
        "create_exception_cls",
        ("test_an_exception_that_is_not_imported_here_gets_a_class_of_its_name",),
    ),
]

INTERFACE = [
    Behaviour(
        "What is accepted: the argument, else what is set for results, else what is set in general.",
        "accept_precedence",
        (
            "test_a_setting_is_that_of_the_app_unless_an_argument_says_otherwise",
            "test_what_is_accepted_of_results_goes_before_what_is_accepted_in_general",
        ),
    ),
    Behaviour(
        "A meta has status, result and traceback, also of None; name, arguments and queue where results are extended.",
        "get_result_meta get_result_meta_with_none",
        (
            "test_what_is_stored_says_when_by_whom_and_why",
            "test_a_result_is_read_as_it_was_stored",
            "test_the_extended_form_keeps_the_call_and_where_it_ran",
        ),
    ),
    Behaviour(
        "Stamps that are declared are stored, others are not.",
        "get_result_meta_ignores_undeclared_stamps get_result_meta_without_declared_stamps",
        why=CANVAS + IN_CELERY,
    ),
    Behaviour(
        "A request that lacks attributes is good enough.",
        "get_result_meta_stamps_attribute_error",
        why="All that is asked of a request are the fields of `Request`, each of which has a default.",
    ),
    Behaviour(
        "Arguments are stored encoded.",
        "get_result_meta_encoded",
        ("test_the_extended_form_keeps_the_call_and_where_it_ran",),
        "They are encoded once, together with the result: encoded bytes inside encoded bytes would be read by nobody.",
    ),
    Behaviour(
        "The date of the end is text, or a datetime where the store wants one.",
        "get_result_meta_format_date",
        ("test_what_is_stored_says_when_by_whom_and_why", "test_a_result_knows_its_value_and_when_it_ended"),
        "It is always text in the store, and a datetime in the hands of whoever reads it.",
    ),
]

BASE = [
    Behaviour(
        "A class that does not define how to forget says so.",
        "_forget forget",
        ("test_what_a_class_does_not_define_raises_naming_class_and_operation",),
    ),
    Behaviour(
        "The part of a chord is nothing to a backend that cannot count.",
        "on_chord_part_return",
        ("test_what_belongs_to_no_group_or_cannot_be_counted_is_not_counted",),
    ),
    Behaviour(
        "Such a backend dispatches a task that looks for the header.",
        "apply_chord",
        ("test_a_store_that_cannot_count_dispatches_a_task_that_looks",),
    ),
    Behaviour(
        "That task goes by the queue, the exchange and the route of the body.",
        "chord_unlock_queue chord_unlock_routing_options chord_unlock_with_unknown_queue "
        "chord_unlock_with_queue_without_exchange chord_unlock_stamped_routing_options",
        why=ROUTES,
    ),
]

EXCEPTIONS = [
    Behaviour(
        "An exception that can be pickled is pickled as it is.",
        "BaseException get_pickleable_exception regular",
        ("test_an_exception_is_stored_as_it_is_by_pickle", "test_an_exception_comes_back_with_its_class_and_arguments"),
    ),
    Behaviour(
        "One that cannot is replaced by something that says what it was.",
        "unpickleable impossible",
        ("test_an_exception_that_does_not_survive_pickle_says_what_it_was",),
        "A `TaskError` with its name, not the next base class that can be pickled, which would claim to be the error.",
    ),
    Behaviour(
        "Arguments that json has no form for become text.",
        "json_exception_arguments",
        ("test_an_argument_that_cannot_be_stored_becomes_its_description",),
    ),
    Behaviour(
        "A class inside a class comes back, as do texts in any script and what derives from BaseException only.",
        "json_exception_nested encode_result_json_base_exception unicode_message",
        (
            "test_an_exception_comes_back_with_its_class_and_arguments",
            "test_an_exception_is_stored_by_type_module_and_arguments",
        ),
    ),
]

DICT = [
    Behaviour(
        "A group is saved, restored (also past the cache) and deleted; one that was not saved is None.",
        "delete_group save_group restore_group reload_group_result",
        (
            "test_a_group_comes_back_as_it_was_saved",
            "test_a_group_that_is_deleted_or_was_never_saved_is_none",
            "test_reloading_a_group_reads_past_the_cache_and_into_it",
        ),
    ),
    Behaviour(
        "An exception is stored by its parts and comes back.",
        "prepare_exception_json",
        ("test_an_exception_comes_back_with_its_class_and_arguments",),
    ),
    Behaviour(
        "The hooks of a subclass may name their parameters as they like.",
        "backend_hooks_get_positional_arguments",
        ("test_hooks_are_called_with_positional_arguments",),
    ),
    Behaviour(
        "What a class does not define raises.",
        "add_to_chord_interface forget_interface",
        ("test_what_a_class_does_not_define_raises_naming_class_and_operation",),
    ),
    Behaviour(
        "A result is read past the cache and into it.",
        "reload_task_result is_cached",
        (
            "test_reloading_a_result_reads_past_the_cache_and_into_it",
            "test_a_success_is_read_once",
            "test_what_may_still_change_is_read_again_each_time",
        ),
        "Here only once it is SUCCESS: anything else in the cache would never be seen to change.",
    ),
    Behaviour(
        "A failure of the exception in flight keeps none of its frames alive.",
        "fail_from_current_stack",
        ("test_a_failure_of_the_present_exception_says_where_and_keeps_no_frame_alive",),
    ),
    Behaviour(
        "Handles of results become tuples, unless they are pickled.",
        "prepare_value_serializes_group_result",
        ("test_a_handle_is_stored_as_a_tuple_unless_it_is_pickled",),
    ),
    Behaviour(
        "Whether anything is stored of a task.",
        "task_result_exists_true task_result_exists_false task_result_exists_failure_state",
        ("test_a_task_that_nobody_knows_is_pending_without_a_result",),
        EXISTS,
    ),
    Behaviour(
        "A task that is done, has failed or was revoked returns its part of a chord.",
        "mark_as_done__chord mark_as_failure__chord mark_as_revoked__chord",
        ("test_the_part_of_a_chord_is_returned_whether_it_is_stored_or_not",),
    ),
    Behaviour(
        "An errback of the old style is dispatched in a group, with the failed task as parent and its root as root; "
        "its own arguments count when its style is told.",
        "mark_as_failure__bound_errback mark_as_failure__bound_errback_eager mark_as_failure__errback "
        "old_style_errback_with_partial_arguments",
        (
            "test_the_others_are_dispatched_as_a_group_with_the_failed_task_as_parent",
            "test_an_errback_with_room_for_the_id_only_beside_its_own_arguments_is_dispatched",
            "test_an_immutable_errback_is_dispatched_whatever_it_takes",
        ),
        "Whether it then runs here or in a worker is for `dispatch` to say.",
    ),
    Behaviour(
        "One that cannot be called so, or raises, stops none of the others.",
        "invalid_partial_errback_does_not_halt_other_errbacks new_style_errback_exception_does_not_halt_chain",
        (
            "test_an_errback_that_raises_is_logged_and_stops_none_of_the_others",
            "test_an_errback_that_cannot_be_dispatched_is_logged_and_stops_none_of_the_others",
        ),
        "One that cannot take the arguments that it brings is dispatched, and fails with a result of its own.",
    ),
    Behaviour(
        "One of the new style gets request, exception and traceback before its own arguments.",
        "new_style_errback_with_partial_arguments",
        (
            "test_an_errback_with_room_for_it_is_called_with_request_exception_and_traceback",
            "test_the_errbacks_own_arguments_come_after_those",
        ),
    ),
    Behaviour(
        "One that is a class, or is not registered here, is dispatched.",
        "class_based_task_can_be_used_as_error_callback unregistered_task_can_be_used_as_error_callback",
        ("test_an_errback_that_is_not_registered_here_is_dispatched_and_not_dropped",),
        "There are no tasks as classes: anything with `run` is a task.",
    ),
    Behaviour(
        "What comes after a failed body, or after a failed link of a chain, fails too.",
        "mark_as_failure__chained_chord_propagates_to_body chord_error_from_stack_fails_the_chain_after_the_body "
        "chord_error_from_stack_fails_the_chain_after_a_group_body fail_chain_skips_a_chord_without_a_body "
        "fail_chain_does_not_call_get_state_for_plain_chain "
        "chord_error_from_stack_resolves_the_current_exception_for_the_chain "
        "chord_error_from_stack_fails_the_chain_with_the_errback_error",
        why=CANVAS + IN_CELERY,
    ),
    Behaviour(
        "A body that is itself a part of a chord returns its part when it fails, once.",
        "fail_chain_returns_the_chord_part_of_a_chained_member fail_chain_returns_a_chord_part_once_per_member "
        "fail_chain_calls_get_state_for_chord_member",
        ("test_a_chord_inside_another_that_fails_fails_that_too",),
    ),
    Behaviour(
        "An errback of a body that raises becomes the failure.",
        "chord_error_from_stack_raises",
        ("test_what_an_errback_of_a_body_raises_becomes_the_failure",),
    ),
    Behaviour(
        "None is no exception and stays None; what is one stays itself.",
        "exception_to_python_when_None not_an_actual_exc_info",
        ("test_what_is_an_exception_already_or_nothing_stays_as_it_is",),
        "The second of them is empty.",
    ),
    Behaviour(
        "A stored name of a function or of any other object is refused and not called.",
        "not_an_exception_but_a_callable not_an_exception_but_another_object",
        (
            "test_a_name_of_something_else_than_an_exception_is_refused",
            "test_nothing_is_called_that_a_stored_name_leads_to",
            "test_a_module_is_never_imported_to_find_an_exception",
        ),
    ),
    Behaviour(
        "A name that its module does not have gets a class; one whose class takes other arguments says what it was.",
        "exception_to_python_when_attribute_exception exception_to_python_when_type_error",
        (
            "test_an_exception_that_is_not_imported_here_gets_a_class_of_its_name",
            "test_an_exception_that_is_not_made_of_its_arguments_says_what_it_was",
        ),
    ),
    Behaviour(
        "Waiting calls back between looks, gives up when time is up, does not pause without time or beyond it.",
        "wait_for__on_interval wait_for__timeout_zero_does_not_wait_forever wait_for__timeout_zero_does_not_sleep "
        "wait_for__does_not_sleep_past_the_timeout",
        (
            "test_waiting_ends_when_the_result_is_there",
            "test_the_callback_comes_before_each_pause",
            "test_without_time_there_is_one_look_and_no_pause",
            "test_a_pause_is_never_longer_than_the_time_that_is_left",
            "test_the_last_look_comes_when_time_is_up_and_not_later",
        ),
    ),
    Behaviour(
        "Children are read from the meta, if there are any.",
        "get_children",
        (
            "test_what_is_stored_says_when_by_whom_and_why",
            "test_a_task_that_nobody_knows_is_pending_without_a_result",
        ),
    ),
]

CHORD_ERRORS = [
    Behaviour(
        "The error of a chord has the error of the part as its cause.",
        "create_chord_error_with_cause",
        ("test_a_part_that_fails_fails_the_body_by_its_name_and_its_exception",),
    ),
    Behaviour(
        "A request is made for a body that never ran: with its id, its task and its errbacks.",
        "create_fake_task_request",
        ("test_a_body_that_fails_has_the_failure_and_its_errbacks_are_called",),
    ),
    Behaviour(
        "A body fails on the backend of its task, or here if nobody knows the task; without an id it gets one.",
        "chord_error_from_stack_backend_fallback chord_error_from_stack_generates_id_when_callback_id_is_none",
        (
            "test_a_body_fails_where_its_task_keeps_its_results",
            "test_a_body_that_fails_has_the_failure_and_its_errbacks_are_called",
            "test_a_body_that_has_no_id_yet_gets_one",
        ),
    ),
    Behaviour(
        "A body that is a group: each of its tasks fails, with its errbacks and the group's, and is then revoked.",
        "chord_error_from_stack_callback_dispatch handle_group_chord_error_exception_handling "
        "handle_group_chord_error_multiple_tasks handle_group_chord_error_stores_failures_before_revoke "
        "handle_group_chord_error_with_errbacks handle_group_chord_error_calls_errbacks_of_each_task "
        "handle_group_chord_error_calls_errbacks_of_chord_in_group "
        "handle_group_chord_error_chord_without_body_in_group handle_group_chord_error_cleanup_exception_handling "
        "handle_group_chord__exceptions_paths",
        why=CANVAS + "A body here is one task, which may start a group. " + IN_CELERY,
    ),
    Behaviour(
        "Errbacks may be given as one signature.",
        "handle_group_chord_error_errbacks_given_as_a_signature",
        ("test_errbacks_are_given_by_themselves_or_as_a_list", "test_a_body_that_has_no_id_yet_gets_one"),
    ),
]

CLASSES = {
    "test_nulldict, test_serialization": SERIALIZATION,
    "test_Backend_interface": INTERFACE,
    "test_BaseBackend_interface": BASE,
    "test_exception_pickle, test_prepare_exception": EXCEPTIONS,
    "test_BaseBackend_dict": DICT,
    "test_BaseBackend_dict: errors of chords": CHORD_ERRORS,
}
