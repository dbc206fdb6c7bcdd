"""The engine for many machines: the port over Redis or Valkey, Cluster included."""

from lmdbresults.store.redis.options import SCHEMES, RedisOptions, is_redis_url, redis_options_from_url
from lmdbresults.store.redis.store import RedisStats, RedisStore, open_redis

__all__ = [
    "SCHEMES",
    "RedisOptions",
    "RedisStats",
    "RedisStore",
    "is_redis_url",
    "open_redis",
    "redis_options_from_url",
]
