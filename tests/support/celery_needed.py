"""What a test needs beside Celery: where it is missing, the test skips on a laptop and fails in CI."""

import os
from importlib.util import find_spec

import celery
import pytest
from celery.app.amqp import AMQP
from celery.backends.base import Backend

#: Whether there is time for the long form of a test.
FULL = os.environ.get("LMDBRESULTS_FULL") == "1"
CI = os.environ.get("CI") == "true"

needs_yaml = pytest.mark.skipif(find_spec("yaml") is None and not CI, reason="PyYAML is not installed")
needs_5_7 = pytest.mark.skipif(celery.VERSION < (5, 7), reason=f"new in Celery 5.7; installed is {celery.__version__}")

#: The serializers that Celery knows, as parameters of a test; and what must be accepted to read all of them.
SERIALIZERS = ["json", "msgpack", "pickle", pytest.param("yaml", marks=needs_yaml)]
ALL_CONTENT = ["json", "msgpack", "pickle", "yaml"]
needs_group_errors = pytest.mark.skipif(
    not hasattr(Backend, "_handle_group_chord_error"),
    reason=f"Celery {celery.__version__} does not fail the tasks of a group that is the body of a chord",
)
needs_callback_marks = pytest.mark.skipif(
    not hasattr(AMQP, "_retry_publish"), reason=f"Celery {celery.__version__} does not mark the links that it sends"
)
