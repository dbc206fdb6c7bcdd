"""The peers that are compared: one small class for each configuration."""
