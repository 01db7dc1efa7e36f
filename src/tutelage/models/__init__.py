"""The only folder that knows foreign model libraries."""
