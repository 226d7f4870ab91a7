"""Models, and the two visible tables that a new one is added to."""
