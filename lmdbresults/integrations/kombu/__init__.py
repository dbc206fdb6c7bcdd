"""The kombu transport: Celery's broker, and that of plain kombu programs, in one LMDB file.

``broker_url = "lmdb:///var/lib/app/celery.lmdb"``. Programs that import nothing of kombu but ``Connection`` import this
module as well, so that kombu knows the scheme; for Celery, the entry point does that.
"""

import lmdbresults_scheme  # noqa: F401 - it makes the scheme known
from lmdbresults.integrations.kombu.channel import Channel
from lmdbresults.integrations.kombu.receiver import is_outstanding, settled
from lmdbresults.integrations.kombu.transport import Transport, identity_of

__all__ = ["Channel", "Transport", "identity_of", "is_outstanding", "settled"]
