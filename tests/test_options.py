"""The path and the options of a store: every valid form, and the errors for invalid ones."""

import dataclasses
import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from lmdbresults import Options
from lmdbresults.errors import ConfigurationError, UnknownOption
from lmdbresults.options import options_from_url

GIB = 1 << 30


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a working directory and a home of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("lmdb:///var/lib/app/results.lmdb", "/var/lib/app/results.lmdb"),
        ("lmdb:////var/lib/app/results.lmdb", "/var/lib/app/results.lmdb"),
        ("LMDB:///var/results.lmdb", "/var/results.lmdb"),
        ("lmdb:///var/results.lmdb?", "/var/results.lmdb"),
        ("lmdb:///var/lib/../results.lmdb", "/var/results.lmdb"),
        ("/var/results.lmdb", "/var/results.lmdb"),
        (Path("/var/results.lmdb"), "/var/results.lmdb"),
        ("lmdb:///a file/results.lmdb", "/a file/results.lmdb"),
        ("lmdb:///a%20file/results.lmdb", "/a file/results.lmdb"),
        ("/a file/results.lmdb", "/a file/results.lmdb"),
        ("lmdb:///b%C3%BCcher/\u00fc.lmdb", "/b\u00fccher/\u00fc.lmdb"),
        ("/b\u00fccher/\u65e5\u672c.lmdb", "/b\u00fccher/\u65e5\u672c.lmdb"),
        ("lmdb:///50%25/what%3Fnot%23.lmdb", "/50%/what?not#.lmdb"),
        ("/50%25/what?not=this.lmdb", "/50%25/what?not=this.lmdb"),
        ("/odd://name.lmdb", "/odd:/name.lmdb"),
        ("lmdb:///var/~/results~.lmdb", "/var/~/results~.lmdb"),
        ("/~/results.lmdb", "/~/results.lmdb"),
    ],
)
def test_an_absolute_path(given: str, path: str):
    assert options_from_url(given).path == path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("lmdb://results.lmdb", "here/results.lmdb"),
        ("lmdb://./results.lmdb", "here/results.lmdb"),
        ("lmdb://data/results.lmdb", "here/data/results.lmdb"),
        ("lmdb://../results.lmdb", "results.lmdb"),
        ("results.lmdb", "here/results.lmdb"),
        ("./data/results.lmdb", "here/data/results.lmdb"),
        (Path("results.lmdb"), "here/results.lmdb"),
        ("~/results.lmdb", "home/results.lmdb"),
        ("lmdb://~/results.lmdb", "home/results.lmdb"),
        ("./~/results.lmdb", "here/~/results.lmdb"),
        ("lmdb://data/~/results.lmdb~", "here/data/~/results.lmdb~"),
    ],
)
def test_path_relative_to_the_working_directory_or_home(given: str, path: str, tmp_path: Path):
    assert options_from_url(given).path == str(tmp_path / path)


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("", "max_size", 64 * GIB),
        ("max_size=8GiB", "max_size", 8 * GIB),
        ("max_size=8gib", "max_size", 8 * GIB),
        ("max_size=500MB", "max_size", 500_000_000),
        ("max_size=500+MB", "max_size", 500_000_000),
        ("max_size=500%20MB", "max_size", 500_000_000),
        ("max_size=1.5GiB", "max_size", GIB * 3 // 2),
        ("max_size=2TiB", "max_size", 2048 * GIB),
        ("max_size=2000000", "max_size", 2_000_000),
        ("max_size=2000kB", "max_size", 2_000_000),
        ("max_size=2000000B", "max_size", 2_000_000),
        ("", "durability", "checkpoint"),
        ("", "checkpoint_interval", 1.0),
        ("checkpoint_interval=0.25", "checkpoint_interval", 0.25),
        ("checkpoint_bytes=8MiB", "checkpoint_bytes", 8 << 20),
        ("", "on_damage", "error"),
        ("on_damage=fresh", "on_damage", "fresh"),
        ("durability=commit", "durability", "commit"),
        ("durability=none", "durability", "none"),
        ("", "mode", 0o600),
        ("mode=0660", "mode", 0o660),
        ("mode=660", "mode", 0o660),
        ("mode=0o640", "mode", 0o640),
        ("", "max_readers", 1024),
        ("max_readers=20", "max_readers", 20),
        ("", "lock_timeout", None),
        ("lock_timeout=2.5", "lock_timeout", 2.5),
        ("lock_timeout=0", "lock_timeout", 0.0),
        ("", "create_folder", False),
        ("create_folder=1", "create_folder", True),
        ("create_folder=no", "create_folder", False),
        ("", "global_keyprefix", ""),
        ("global_keyprefix=", "global_keyprefix", ""),
        ("global_keyprefix=app", "global_keyprefix", "app_"),
        ("global_keyprefix=app:", "global_keyprefix", "app:"),
        ("global_keyprefix=b%C3%BC-", "global_keyprefix", "b\u00fc-"),
        ("durability=none&mode=0660", "mode", 0o660),
    ],
)
def test_an_option_in_a_url(query: str, name: str, value: object):
    assert getattr(options_from_url(f"lmdb:///results.lmdb?{query}"), name) == value


def test_option_in_code_may_be_text_as_in_a_url():
    options = options_from_url("/r.lmdb", max_size="2GiB", mode="0660", create_folder="1")
    assert (options.max_size, options.mode, options.create_folder) == (2 * GIB, 0o660, True)


def test_decimal_mode_is_refused_and_shown_in_octal():
    with pytest.raises(ConfigurationError, match=r"invalid mode=660 \(0o1224\): .* such as 0o660 or '0660'"):
        options_from_url("/r.lmdb", mode=660)


@pytest.mark.parametrize(
    "url",
    [
        "lmdb://localhost/results.lmdb",
        "lmdb://LOCALHOST/results.lmdb",
        "lmdb://127.0.0.1/results.lmdb",
        "lmdb://user@db/results.lmdb",
        "lmdb://db:6379/results.lmdb",
        "lmdb://[::1]/results.lmdb",
        "lmdb://localhost",
    ],
)
def test_url_with_a_host_is_refused_with_both_right_forms(url: str):
    with pytest.raises(ConfigurationError, match="names a host") as caught:
        options_from_url(url)
    rest = url.removeprefix("lmdb://")
    assert f"lmdb:///{rest.partition('/')[2] or 'path'} for an absolute path" in str(caught.value)
    assert f"lmdb://./{quote(rest)} for one relative" in str(caught.value)


def test_options_given_in_code_win_over_those_of_the_url():
    options = options_from_url("lmdb:///r.lmdb?durability=none&max_readers=5", durability="commit", max_size="2GiB")
    assert (options.durability, options.max_readers, options.max_size) == ("commit", 5, 2 * GIB)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("redis://localhost/0", "unsupported URL scheme 'redis' (expected lmdb://)"),
        ("file:///results.lmdb", "expected lmdb://"),
        ("lmdb:results.lmdb", "lmdb:///absolute/path"),
        ("lmdb:/results.lmdb", "lmdb:///absolute/path"),
        ("", "the path of a file"),
        ("/", "the path of a file"),
        ("lmdb://", "the path of a file"),
        ("lmdb:///", "the path of a file"),
        ("lmdb:///var/folder/", 'must not be empty or end in "/"'),
        ("folder/", 'must not be empty or end in "/"'),
        (b"/results.lmdb", "text, not bytes"),
        ("/results\0.lmdb", "without NUL"),
        ("~\0/results.lmdb", "without NUL"),
        ("lmdb:///results%00.lmdb", "without NUL"),
        ("lmdb:///%ff.lmdb", "not UTF-8"),
        ("/\ud800.lmdb", "path"),
        ("lmdb:///~/results.lmdb", "write lmdb://~/results.lmdb, the absolute path, or open_store(os.path.expanduser("),
        ("lmdb:////~/a%20b?mode=0660", "write lmdb://~/a%20b, the absolute path, or"),
        ("lmdb:///~user/results.lmdb", "the folder '~user' of the root folder"),
    ],
)
def test_invalid_path_is_refused_with_a_cure(given: str, cure: str):
    with pytest.raises(ConfigurationError) as caught:
        options_from_url(given)
    assert cure in str(caught.value)


def test_home_of_a_user_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match="~nobody-of-this-name"):
        options_from_url("~nobody-of-this-name/results.lmdb")


@pytest.mark.parametrize(
    ("query", "cure"),
    [
        ("durability=sometimes", "invalid durability='sometimes': must be one of checkpoint, commit, none"),
        ("durability=", "checkpoint, commit, none"),
        ("durability", "name=value"),
        ("durability=none&&mode=0660", "name=value"),
        ("durability=none&durability=commit", "each option once"),
        ("durability=none&durability=none", "each option once"),
        ("max_size=big", "as in 8GiB"),
        ("max_size=8XB", "as in 8GiB"),
        ("max_size=", "as in 8GiB"),
        ("max_size=-8GiB", "as in 8GiB"),
        ("max_size=1000", "invalid max_size=1000: must be bytes from 1 MiB to 64 TiB, or text such as 500MB or 8GiB"),
        ("max_size=99999999999TiB", "max_size"),
        ("mode=0888", "octal"),
        ("mode=rw", "octal"),
        ("mode=-660", "octal"),
        ("create_folder=maybe", "1 or 0"),
        ("checkpoint_interval=soon", "a number"),
        ("mode=0060", "at least 0600"),
        ("mode=0700", "nothing beyond 0666"),
        ("mode=4600", "nothing beyond 0666"),
        ("max_readers=0", "from 1 to"),
        ("max_readers=many", "max_readers"),
        ("max_readers=9999999999", "max_readers"),
        ("lock_timeout=-1", "lock_timeout"),
        ("lock_timeout=nan", "lock_timeout"),
        ("lock_timeout=soon", "lock_timeout"),
        ("clock=now", "in code"),
    ],
)
def test_invalid_option_is_refused_with_a_cure(query: str, cure: str):
    with pytest.raises(ConfigurationError) as caught:
        options_from_url(f"lmdb:///results.lmdb?{query}")
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_size", None),
        ("max_size", True),
        ("max_size", 2e9),
        ("checkpoint_interval", True),
        ("checkpoint_interval", float("nan")),
        ("create_folder", 1),
        ("mode", None),
        ("mode", -1),
        ("max_readers", 1.0),
        ("lock_timeout", True),
        ("global_keyprefix", b"app"),
        ("global_keyprefix", "\ud800"),
        ("durability", None),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(name: str, value: object):
    with pytest.raises(ConfigurationError, match=name):
        options_from_url("/results.lmdb", **{name: value})


@pytest.mark.parametrize("given", ["lmdb:///r.lmdb?sync=1", "lmdb:///r.lmdb?Mode=0600", "lmdb:///r.lmdb?path=/x"])
def test_an_unknown_option_is_refused_with_a_list_of_the_known_ones(given: str):
    with pytest.raises(UnknownOption) as caught:
        options_from_url(given)
    for known in {field.name for field in dataclasses.fields(Options)} - {"path"}:
        assert known in str(caught.value)


def test_a_misspelt_keyword_is_an_unknown_option_too():
    with pytest.raises(UnknownOption, match="maxsize"):
        options_from_url("/results.lmdb", maxsize=GIB)


def test_options_are_frozen_and_compare_by_value_whatever_the_clock():
    options = Options(path="/results.lmdb")
    assert options.clock is time.time
    assert options == Options(path="/results.lmdb", clock=lambda: 0.0)
    assert options != Options(path="/results.lmdb", mode=0o660)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.mode = 0o660


@pytest.mark.parametrize("path", ["results.lmdb", "", Path("/results.lmdb"), b"/results.lmdb"])
def test_options_made_by_hand_want_an_absolute_path(path: object):
    with pytest.raises(ConfigurationError, match="an absolute path"):
        Options(path=path)


def test_a_path_object_of_any_kind_is_taken():
    class Elsewhere(os.PathLike):
        def __fspath__(self) -> str:
            return "/results.lmdb"

    assert options_from_url(Elsewhere()).path == "/results.lmdb"
