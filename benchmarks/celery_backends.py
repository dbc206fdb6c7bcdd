"""What one result costs through Celery's backend classes in one process: stored, read back, asked for in vain.

Run as python -m benchmarks.celery_backends. Entries and scenarios are named here, peers.py opens the former and
measure.py times the latter.
"""

from benchmarks import peers, run
from benchmarks.peers import Entry

REFERENCE = "ours"
ENTRIES = (
    Entry(REFERENCE, "lmdb://, durability=none", "none", peers.ours("none")),
    Entry("Redis", "redis+socket://, no persistence", "memory", peers.redis),
    Entry("files", "file://", "none", peers.files),
    Entry("limit", "bare py-lmdb transaction, sync=False, no decoding", "none", peers.limit),
    Entry("SQLite", "db+sqlite://, WAL, synchronous=NORMAL, pooled", "checkpoint", peers.sqlite, 40),
    Entry("ours, commit", "lmdb://, durability=commit", "commit", peers.ours("commit"), 10),
)
SCENARIOS = {"store": run.store, "get": run.get, "miss": run.miss}

if __name__ == "__main__":
    run.run(run.options("benchmarks.celery_backends", __doc__).parse_args(), ENTRIES, SCENARIOS, REFERENCE)
