"""Makes the scheme ``lmdb`` known to kombu, which has no entry points for transports.

kombu imports the entry points of its serializers with its own module of that name, and this module is one of them: as a
serializer it is empty. It is no part of the package, because it may be imported while gevent replaces the sockets of
Python's library, and a package that is imported then keeps the former ones. Nor do programs that use another broker
lose time.
"""

from kombu.transport import TRANSPORT_ALIASES

__all__ = ["EMPTY_SERIALIZER"]

TRANSPORT_ALIASES.setdefault("lmdb", "lmdbresults.integrations.kombu:Transport")

#: Encoder, decoder, content type and content encoding: kombu registers no encoder and no decoder for it.
EMPTY_SERIALIZER = (None, None, "application/x-lmdbresults", "binary")
