"""Records from files, sources and steps to batches and stores."""
