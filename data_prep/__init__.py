"""Data preparation: logs in, prepared data sets out."""
