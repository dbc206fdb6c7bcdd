"""The examination of a server, or of the masters of a Cluster: what could go wrong there, and the cure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lmdbresults.errors import StoreError
from lmdbresults.store.findings import ERROR, OK, WARNING, Finding, Level
from lmdbresults.store.redis.options import RedisOptions
from lmdbresults.store.redis.store import RedisStore

__all__ = ["examine"]


def examine(options: RedisOptions) -> Iterator[Finding]:
    """Yield what there is to say about the servers of a store. Changes nothing."""
    with RedisStore(replace(options, retry_timeout=0.0)) as store:
        try:
            infos = [
                {**info, "appendfsync": setting}
                for info, setting in zip(store.infos(), store.settings("appendfsync"), strict=True)
            ]
        except StoreError as refusal:
            yield Finding("server", ERROR, str(refusal))
            return
    for number, info in enumerate(infos, 1):
        which = f"Master {number} of {len(infos)}: " if len(infos) > 1 else ""
        for subject, level, text, cure in _of_master(info, is_cluster=options.kind == "cluster"):
            yield Finding(subject, level, which + text, cure)


def _of_master(info: Mapping[str, str], *, is_cluster: bool) -> Iterator[Finding]:
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version')}"
    yield Finding("server", OK, f"{name} answers.")
    yield from _persistence(info)
    yield from _memory(info)
    if is_cluster and info.get("connected_slaves") == "0":
        text = "It has no replica: if it is lost, so is its part of the keys."
        yield Finding("replicas", WARNING, text, "Add a replica to each master.")


#: What a power failure takes, by the setting of the server.
_LOST = {
    "always": "A power failure takes nothing that was acknowledged (appendfsync always).",
    "everysec": "A power failure takes up to two seconds (appendfsync everysec).",
    "no": "A power failure takes what the system has not written yet, often half a minute (appendfsync no).",
    "": "`appendfsync` says what a power failure takes.",
}


def _persistence(info: Mapping[str, str]) -> Iterator[Finding]:
    failed = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if failed:
        text = f"It could not write to its disk ({', '.join(failed)}), and may refuse to store."
        yield Finding("durability", ERROR, text, "See the log of the server: its disk is full, or fails.")
    if info.get("aof_enabled") == "1":
        yield Finding("durability", OK, f"It has an append-only file. {_LOST.get(info['appendfsync'], _LOST[''])}")
    else:
        text = "It has no append-only file: a restart loses what was stored since its last snapshot, now "
        text += f"{info.get('rdb_changes_since_last_save', 'some')} changes."
        yield Finding("durability", WARNING, text, "Set `appendonly yes`, if results must survive a restart.")


def _memory(info: Mapping[str, str]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = info.get("maxmemory_policy", "noeviction")
    level: Level = OK
    text, cure = f"{used} bytes are in use, of {most or 'all that the machine has'}.", ""
    if most and used > most * 0.8:
        level, cure = WARNING, "Raise `maxmemory`, or let results expire sooner (result_expires)."
    yield Finding("memory", level, text, cure)
    if policy != "noeviction":
        text = f"If memory is short, it deletes keys (maxmemory-policy {policy}): results and parts of chords vanish."
        yield Finding("memory", WARNING, text, "Set `maxmemory-policy noeviction`: then storing fails, and says so.")
