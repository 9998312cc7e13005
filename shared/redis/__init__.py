"""shared/redis."""
