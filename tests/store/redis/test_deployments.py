"""A store over a master that sentinels watch, and over TLS."""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from lmdbresults.errors import ConfigurationError, StoreUnavailable
from lmdbresults.store.redis import open_redis
from tests.support.redis_servers import RedisServer, free_port, redis_server, until


def test_a_master_that_dies_is_replaced_by_the_one_that_its_sentinel_names(tmp_path: Path):
    with ExitStack() as stack:
        master, replica = (stack.enter_context(redis_server(tmp_path / name, port=free_port())) for name in "ab")
        replica.call("REPLICAOF", "127.0.0.1", master.port)
        until(lambda: replica.call("ROLE")[3] == b"connected", "the replica does not connect")
        sentinel = stack.enter_context(sentinel_of(tmp_path / "s", master))
        until(lambda: str(replica.port) in str(sentinel.call("SENTINEL", "REPLICAS", "main")), "no replica is found")
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main?min_replicas=1"
        store = stack.enter_context(open_redis(url, retry_timeout=60.0))
        subscription = store.subscribe()
        subscription.add([b"key"])
        assert store.set(b"key", b"before") is True
        until(lambda: b"key" in (subscription.receive(0.1) or ()), "the waiter does not hear of it")
        master.kill()
        assert store.get(b"key") == b"before"
        with open_redis(url, retry_timeout=60.0, min_replicas=0) as other:
            assert other.set(b"key", b"after") is True
        until(lambda: subscription.receive(0.1) is None or b"key" in subscription.add([b"key"]), "nothing is heard")
        assert subscription.add([b"key"]) == {b"key": b"after"}
        subscription.close()


def test_a_name_that_no_sentinel_knows_is_an_error_at_once(tmp_path: Path):
    with ExitStack() as stack:
        master = stack.enter_context(redis_server(tmp_path / "m", port=free_port()))
        sentinel = stack.enter_context(sentinel_of(tmp_path / "s", master))
        store = stack.enter_context(open_redis(f"redis+sentinel://127.0.0.1:{sentinel.port}/other"))
        with pytest.raises(ConfigurationError, match="service_name='other'"):
            store.get(b"key")


def sentinel_of(folder: Path, master: RedisServer):
    folder.mkdir()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    )
    return redis_server(folder, port=free_port(), sentinel=settings)


def test_a_server_is_reached_by_tls_and_a_wrong_certificate_is_refused(tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in ("server", "other"):
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*command, *names, *files, "-days", "2"], check=True, capture_output=True)
    port = free_port()
    settings = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", f"{tmp_path}/server.crt"]
    settings += ["--tls-cert-file", f"{tmp_path}/server.crt", "--tls-key-file", f"{tmp_path}/server.key"]
    with redis_server(tmp_path / "s", *settings) as server:
        url = f"rediss://localhost:{port}/0?retry_timeout=5"
        with open_redis(url, ssl_ca_certs=f"{tmp_path}/server.crt") as store:
            subscription = store.subscribe()
            subscription.add([b"key"])
            store.set(b"key", bytes(1 << 20))
            assert store.get(b"key") == bytes(1 << 20)
            until(lambda: b"key" in (subscription.receive(0.1) or ()), "the waiter does not hear of it")
            subscription.close()
        with open_redis(url, ssl_cert_reqs="none") as store:
            assert store.ttl(b"key") is not None
        for wrong in (url, f"{url}&ssl_ca_certs={tmp_path}/other.crt"):
            with open_redis(wrong) as store, pytest.raises(StoreUnavailable, match=r"cannot be reached by TLS.*ssl_ca"):
                store.get(b"key")
        assert server.path is not None
