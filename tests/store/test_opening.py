"""Which engine keeps a store, by its URL."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_backend, open_store
from lmdbresults.errors import ConfigurationError, FolderMissing, UnknownOption
from lmdbresults.store.fallback import FallbackStore
from lmdbresults.store.redis import SCHEMES, RedisStore


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_a_server_opens_its_engine_without_connecting(scheme: str):
    place = {"unix": "/tmp/none.sock"}.get(scheme, "host:1/master" if "sentinel" in scheme else "host:1")
    with open_store(f"{scheme}://{place}?retry_timeout=0", owner_lease=20) as store:
        assert isinstance(store, RedisStore)
        assert (store.options.retry_timeout, store.options.owner_lease) == (0.0, 20)


def test_a_path_and_lmdb_urls_open_a_file(tmp_path: Path):
    for place in (tmp_path / "a", str(tmp_path / "a"), f"lmdb://{tmp_path}/a"):
        with open_store(place, durability="none") as store:
            assert isinstance(store, LMDBStore)


def test_an_unknown_scheme_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"'reddis': must be one of lmdb, redis, .*; is redis:// meant\?"):
        open_store("reddis://host")
    with pytest.raises(ConfigurationError, match="unsupported URL scheme 'http': must be one of lmdb, redis,"):
        open_backend("http://host")
    with pytest.raises(UnknownOption, match="unknown option durability"):
        open_store("redis://host", durability="none")


def test_without_a_client_the_error_says_how_to_install_one():
    code = "import sys; sys.modules['redis'] = sys.modules['valkey'] = None; import lmdbresults as l\n"
    code += "try: l.open_store('redis://host')\nexcept l.ConfigurationError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True).stdout
    assert "pip install 'lmdbresults[redis]'" in said


def test_the_option_fallback_names_an_existing_file(tmp_path: Path):
    with pytest.raises(FolderMissing, match=r"old\.lmdb does not exist"):
        open_store("redis://host", fallback=str(tmp_path / "old.lmdb"))
    with pytest.raises(ConfigurationError, match="fallback must be a file"):
        open_store("redis://host", fallback="redis://other")
    open_store(tmp_path / "old.lmdb", durability="none").close()
    with open_store(f"redis://host?db=1&fallback=lmdb://{tmp_path}/old.lmdb%3Fdurability=none") as store:
        assert isinstance(store, FallbackStore)
        assert store.new.options.db == 1
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.old.options.path == str(tmp_path / "old.lmdb")
