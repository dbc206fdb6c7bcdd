"""Makes the scheme ``lmdb`` known to kombu, which has no entry points for transports.

kombu imports the entry points of its serializers when it is imported, and this module is one of them: as a serializer
it is empty. It imports nothing but kombu's table of transports, so that programs which use another broker lose no time.
"""

from typing import Final

from kombu.transport import TRANSPORT_ALIASES

__all__ = ["EMPTY_SERIALIZER"]

TRANSPORT_ALIASES.setdefault("lmdb", "lmdbresults.integrations.kombu:Transport")

#: Encoder, decoder, content type and content encoding: kombu registers no encoder and no decoder for it.
EMPTY_SERIALIZER: Final = (None, None, "application/x-lmdbresults", "binary")
