"""Playlists, sessions and baskets as vectors: encoders, probes, neighbours, continuation, maps."""
