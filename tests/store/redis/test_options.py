"""URLs and options of a store on Redis or Valkey."""

import pickle

import pytest

from lmdbresults.errors import ConfigurationError, UnknownOption
from lmdbresults.store.redis import RedisOptions, is_redis_url, open_redis, redis_options_from_url


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "more"),
    [
        ("redis://", "server", (("localhost", 6379),), {}),
        ("redis://host", "server", (("host", 6379),), {}),
        ("redis://host:7000/3", "server", (("host", 7000),), {"db": 3}),
        ("valkeys://u:p%40w@host:7000", "server", (("host", 7000),), {"tls": True, "username": "u", "password": "p@w"}),
        ("redis://:secret@[::1]:7000/0", "server", (("::1", 7000),), {"password": "secret", "username": None}),
        ("unix:///run/redis.sock?db=2", "server", (("localhost", 6379),), {"path": "/run/redis.sock", "db": 2}),
        ("redis+cluster://a:1,b:2,c", "cluster", (("a", 1), ("b", 2), ("c", 6379)), {}),
        ("rediss+sentinel://a,b:2/main/4", "sentinel", (("a", 26379), ("b", 2)), {"service_name": "main", "db": 4}),
        ("redis://h?retry_timeout=0&ssl_check_hostname=no", "server", (("h", 6379),), {"ssl_check_hostname": False}),
        ("redis://h?global_keyprefix=app", "server", (("h", 6379),), {"global_keyprefix": "app_"}),
    ],
)
def test_a_url_names_the_servers(url, kind, hosts, more):
    options = redis_options_from_url(url)
    assert (options.kind, options.hosts) == (kind, hosts)
    assert {name: getattr(options, name) for name in more} == more
    assert is_redis_url(url)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("lmdb:///x", "must be one of redis"),
        ("redis://h/x", "db='x'"),
        ("redis://h/1/2", "number of a database"),
        ("redis://h:port", "invalid port 'port'"),
        ("redis://h:0", "invalid hosts"),
        ("redis+cluster://h/1", "only database 0"),
        ("redis+sentinel://h", "service_name is missing"),
        ("redis://h?ssl_cert_reqs=maybe", "one of none, optional, required"),
        ("redis://h?socket_timeout=soon", "a number"),
        ("redis://h?db", "name=value"),
        ("redis://h?global_keyprefix={app}", "Cluster spreads keys"),
    ],
)
def test_an_invalid_url_is_refused_with_the_cure(url, cure):
    with pytest.raises(ConfigurationError, match=cure):
        redis_options_from_url(url)


def test_an_unknown_option_is_refused_with_a_list_of_those_that_exist():
    with pytest.raises(UnknownOption, match="retry_timeout"):
        redis_options_from_url("redis://h", retries=5)


def test_arguments_win_over_the_url():
    assert redis_options_from_url("redis://h/1?retry_timeout=5", db=2, retry_timeout="7").db == 2


def test_no_message_shows_a_password():
    options = redis_options_from_url("redis://user:secret@host:7000/1")
    assert "secret" not in f"{options!r} {options.address()} {open_redis('redis://:secret@host')!r}"
    assert options.address() == "redis://host:7000/1"


def test_a_store_can_be_pickled_and_connects_when_it_is_used():
    copy = pickle.loads(pickle.dumps(open_redis("redis://u:p@nowhere.invalid:7000/1?owner_lease=5")))
    assert copy.options == RedisOptions(
        hosts=(("nowhere.invalid", 7000),), db=1, username="u", password="p", owner_lease=5.0
    )


def test_an_engine_without_queues_says_so():
    store = open_redis("redis://h")
    assert not hasattr(store, "queues")
    with pytest.raises(AttributeError, match="broker_url = 'redis://"):
        store.queues.declare("q")
