"""The commands, one a file. They need click and rich: ``pip install 'lmdbresults[cli]'``."""
