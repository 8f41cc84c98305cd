"""What the API and the worker share: the truth in PostgreSQL, and every boundary to the outside."""
