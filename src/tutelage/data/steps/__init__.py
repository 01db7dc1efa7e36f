"""Steps: transforms of records."""
