"""The commands, one per file. They need click and rich: ``pip install 'lmdbresults[cli]'``."""
