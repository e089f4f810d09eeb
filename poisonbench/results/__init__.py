"""Run records, their store, statistics and tables."""
