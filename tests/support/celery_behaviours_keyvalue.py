"""The second half of celery_behaviours.py: from the key-value backend on."""

from tests.support.celery_behaviours import CANVAS, EXISTS, IN_CELERY, Behaviour

_RETRY = "There is no such setting here: a store makes room by itself before it says that it is full. " + IN_CELERY

KEY_VALUE = [
    Behaviour(
        "The part of a chord is nothing to a backend that cannot count, or outside a group.",
        "on_chord_part_return chord_part_return_no_gid",
        ("test_what_belongs_to_no_group_or_cannot_be_counted_is_not_counted",),
    ),
    Behaviour(
        "A result is stored, read and forgotten; of one that is missing there is no result.",
        "get_store_delete_result get_missing_meta",
        (
            "test_a_task_that_is_done_has_a_result",
            "test_a_result_that_is_forgotten_is_gone_from_cache_and_store",
            "test_a_task_that_nobody_knows_is_pending_without_a_result",
        ),
    ),
    Behaviour(
        "The parent and the group of a task are stored, whatever the serializer.",
        "store_result_parent_id store_result_group_id",
        ("test_what_is_stored_says_when_by_whom_and_why",),
        "They are fields of the record, outside the payload.",
    ),
    Behaviour("Stamps that were not declared are not stored.", "store_result_ignores_undeclared_stamps", (), CANVAS),
    Behaviour(
        "A late duplicate does not overwrite a success.",
        "store_result_race_second_write_should_ignore_if_previous_success",
        (
            "test_a_success_is_never_overwritten",
            "test_a_success_that_another_process_commits_meanwhile_is_not_overwritten",
            "test_whatever_two_processes_store_at_once_a_success_stays",
        ),
    ),
    Behaviour(
        "No key is made of an empty id; a UUID is as good as its text.",
        "get_key_for_task_none_task_id get_key_for_group_none_group_id get_key_for_chord_none_group_id "
        "get_key_for_task_uuid_task_id get_key_for_group_uuid_group_id get_key_for_chord_uuid_group_id",
        ("test_an_empty_id_is_refused", "test_an_id_may_be_text_bytes_or_a_uuid"),
    ),
    Behaviour("A key leads back to its id.", "strip_prefix", ("test_a_key_leads_back_to_its_id",)),
    Behaviour(
        "A global prefix stands before every key, with a separator.",
        "global_keyprefix global_keyprefix_missing",
        ("test_keys_have_the_prefixes_of_the_system_and_one_of_your_own_before_them",),
        "It is an attribute of the class, or an option of the store, and no transport option.",
    ),
    Behaviour(
        "Many results are read at once, each yielded with its id and told to a callback; a store may answer `mget` "
        "with a mapping or a list.",
        "get_many",
        (
            "test_many_are_yielded_as_they_become_ready_each_once",
            "test_those_in_the_cache_come_first_and_those_that_succeeded_go_there",
            "test_results_are_told_by_their_ids_whatever_mget_returns",
        ),
    ),
    Behaviour(
        "Reading many gives up when time is up and not later, after what is ready was yielded.",
        "get_many_times_out get_many__timeout_zero_does_not_wait_forever get_many__does_not_sleep_past_the_timeout "
        "get_many__timeout_zero_returns_results_that_are_ready "
        "get_many__ids_completing_on_the_deadline_is_not_a_timeout",
        (
            "test_what_is_ready_is_yielded_before_time_is_up",
            "test_the_last_look_comes_when_time_is_up_and_not_later",
            "test_a_pause_is_never_longer_than_the_time_that_is_left",
        ),
    ),
    Behaviour(
        "Which states are ready can be said.",
        "get_many_passes_ready_states filter_ready",
        (
            "test_ready_is_what_is_said_to_be",
            "test_what_is_in_the_cache_is_yielded_in_the_states_that_are_asked_for_only",
            "test_what_is_not_ready_is_left_out",
        ),
    ),
    Behaviour(
        "A header that is gone, or cannot be restored, fails the body.",
        "chord_part_return_restore_raises chord_part_return_restore_empty",
        ("test_a_header_that_is_gone_fails_the_body", "test_a_header_that_cannot_be_restored_fails_the_body"),
    ),
    Behaviour(
        "The last part joins the header, within the time that is set for it, and the header is deleted.",
        "chord_part_return_timeout chord_part_return_propagate_set chord_part_return_propagate_default",
        (
            "test_the_body_gets_the_results_in_the_order_of_the_header_whatever_order_they_come_in",
            "test_a_result_that_was_never_stored_fails_the_body",
            "test_a_chord_that_has_ended_leaves_a_mark_that_expires_and_nothing_else",
        ),
    ),
    Behaviour(
        "What goes wrong while joining, or in a part, fails the body, and names the part.",
        "chord_part_return_join_raises_internal chord_part_return_join_raises_task",
        (
            "test_a_part_that_fails_fails_the_body_by_its_name_and_its_exception",
            "test_a_result_of_the_header_that_is_gone_or_cannot_be_read_fails_the_body",
        ),
    ),
    Behaviour(
        "A group is saved, restored and deleted, by any serializer.",
        "restore_group_from_json restore_group_from_pickle save_restore_delete_group restore_missing_group",
        (
            "test_a_group_comes_back_as_it_was_saved",
            "test_a_group_that_is_deleted_or_was_never_saved_is_none",
            "test_a_group_that_was_saved_is_restored_with_its_results",
        ),
    ),
    Behaviour(
        "A store that cannot count has a chord ended by a task that looks, with what the caller says of it.",
        "chord_apply_fallback",
        (
            "test_a_store_that_cannot_count_dispatches_a_task_that_looks",
            "test_how_long_it_waits_between_looks_is_for_the_caller_to_say",
        ),
    ),
    Behaviour(
        "Whether anything is stored of a task.",
        "task_result_exists_after_store task_result_exists_missing task_result_exists_after_failure "
        "task_result_exists_after_retry task_result_exists_after_forget",
        why=EXISTS,
    ),
]

COMPRESSION = [
    Behaviour(
        "Results are compressed where that is set, get smaller, and read the same, exceptions as well.",
        "encode_compresses_and_decode_round_trips compressed_payload_is_smaller exception_result_round_trips",
        (
            "test_a_compressed_result_is_smaller_and_reads_the_same",
            "test_a_compressed_exception_reads_the_same",
        ),
    ),
    Behaviour(
        "By default they are not; old and new results are read by anybody, whatever is set.",
        "compression_is_off_by_default decode_reads_an_uncompressed_payload "
        "decode_reads_a_compressed_payload_with_compression_off stores_compressed_and_reads_back_older_results",
        ("test_a_compressed_result_is_smaller_and_reads_the_same",),
    ),
    Behaviour(
        "A backend that cannot store bytes warns.",
        "ignored_when_the_backend_cannot_store_bytes",
        why="Every store here stores bytes.",
    ),
    Behaviour(
        "An unknown method is refused when the backend is made.",
        "unknown_compression_method_is_rejected",
        ("test_a_serializer_or_compression_that_is_not_there_is_refused_at_once",),
    ),
    Behaviour(
        "What was not compressed is not taken for compressed, whatever its type.",
        "decompress_payload_leaves_other_types_alone decompress_payload_accepts_a_memoryview "
        "uncompressed_binary_payload_is_not_read_as_compressed",
        ("test_a_compressed_result_is_smaller_and_reads_the_same",),
        "A payload names its compression, so that there is no marker to be mistaken about.",
    ),
    Behaviour(
        "Serializers that write bytes can be compressed too.",
        "store_and_get_binary_result",
        ("test_a_compressed_result_is_smaller_and_reads_the_same",),
    ),
]

OPERATIONS = [
    Behaviour(
        "What a store does not supply raises; there is nothing to clean up.",
        "get set incr delete mget forget cleanup",
        (
            "test_what_a_store_does_not_supply_raises_naming_class_and_operation",
            "test_a_store_that_cannot_count_says_so_and_has_nothing_to_clean_up",
        ),
    ),
]

DISABLED = [
    Behaviour("Storing does nothing.", "store_result", ("test_storing_does_nothing",)),
    Behaviour(
        "Reading and chords raise; the URI says so.",
        "is_disabled as_uri chord_raises_error chain_with_chord_raises_error",
        ("test_asking_says_how_results_are_turned_on", "test_its_uri_says_what_it_is"),
    ),
    Behaviour(
        "A chain may fail, if no part of a chord is in it.",
        "fail_chain_with_plain_chain fail_chain_with_chord_member_raises",
        why=CANVAS,
    ),
]

SETTINGS = [
    Behaviour(
        "A password in the URL is hidden unless asked for.",
        "as_uri_include_password as_uri_exclude_password",
        ("test_its_url_shows_no_password_unless_asked_to",),
        "The rest of the URL is left as it was given.",
    ),
    Behaviour(
        "Reading and storing are tried again after errors that pass, if that is set, up to a number of times.",
        "should_retry_exception get_failed_never_retries get_with_retries get_reaching_max_retries "
        "get_unsafe_exception store_result_never_retries store_result_with_retries "
        "get_with_retries_hook_failure_continues store_result_with_retries_hook_failure_continues "
        "store_result_reaching_max_retries",
        why=_RETRY,
    ),
    Behaviour(
        "A backend says whether threads may share it.",
        "result_backend_thread_safe result_backend_not_thread_safe",
        ("test_threads_share_a_backend",),
        "They always may.",
    ),
    Behaviour(
        "A backend without a time to live of their own for failures warns where one is set.",
        "warns_when_the_backend_does_not_support_it no_warning_when_unset",
        why="There is no such setting here. " + IN_CELERY,
    ),
]

CLASSES = {
    "test_KeyValueStoreBackend": KEY_VALUE,
    "test_result_compression, test_result_compression_binary_serializer": COMPRESSION,
    "test_KeyValueStoreBackend_interface": OPERATIONS,
    "test_DisabledBackend": DISABLED,
    "test_as_uri, test_backend_retries, test_failure_expires_support": SETTINGS,
}
