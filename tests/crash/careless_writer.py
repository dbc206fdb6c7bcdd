"""A writer in whose process checkpoints keep no pages from reuse, to show that power cuts bring that to light."""

import json
import sys

from lmdbresults.store.lmdb.durability.checkpoints import Checkpoints
from tests.crash import writer

_adopt = Checkpoints._adopt


def _adopt_without_pin(self, *args: object) -> None:
    _adopt(self, *args)
    self._pin.abort()


Checkpoints._adopt = _adopt_without_pin
Checkpoints.before_commit = lambda self, txn: setattr(self, "needs_work", True)

if __name__ == "__main__":
    writer.main(sys.argv[1], json.loads(sys.argv[2]))
