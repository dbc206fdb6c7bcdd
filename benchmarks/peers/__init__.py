"""The peers: what is compared, one small class each, with the configuration that its rows are labelled with."""
