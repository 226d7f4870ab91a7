"""Sequential recommendation: embeddings, next items, exports and an endpoint from interaction logs."""
