"""Serving: the endpoint and the batch export, both over one recommender."""
