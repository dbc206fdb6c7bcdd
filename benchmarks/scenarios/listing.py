"""What monitoring costs: pages of results, by their age, and figures about all of them."""

from collections.abc import Callable
from functools import partial

from benchmarks import filling
from benchmarks.bench import Bench, scenario
from benchmarks.measure import Block, Key, time_each
from benchmarks.peers import plain
from benchmarks.rows import OWN, Row
from lmdbresults.monitoring import Filters, Monitor

#: A page of results.
PAGE = 100
#: A filter that no result passes.
NONE_MATCHES = Filters(text="no such name")


@scenario(
    "listing",
    f"What the commands and the page read: the newest {PAGE} results, the next {PAGE}, a search that finds nothing, "
    "and the figures of the overview",
    grows_with="results",
)
def listing(bench: Bench) -> list[Row]:
    blocks: dict[Key, Block] = {}
    field = bench.open([plain.NONE])
    for count in bench.size([20, 200], [10_000, 100_000], [10_000, 100_000, 1_000_000]):
        folder = bench.folder / f"listing-{count}"
        folder.mkdir()
        client = plain.NONE.open(folder)
        bench.stack.callback(client.close)
        filling.fill(client, ((filling.random_id(number), filling.DAY) for number in range(count)), bench.step)
        monitor = Monitor(client.backend.store)
        after = monitor.tasks(limit=PAGE // 10).next
        works: dict[str, Callable[[], object]] = {
            "newest": partial(monitor.tasks, limit=PAGE),
            "next page": partial(monitor.tasks, limit=PAGE, after=after),
            "search": partial(monitor.tasks, NONE_MATCHES, limit=PAGE),
            "overview": monitor.overview,
        }
        blocks |= {Key(OWN, work, count): partial(time_each, _call, [read]) for work, read in works.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 5, 15)), alike=True)


def _call(read: Callable[[], object]) -> None:
    read()
