"""shared/money."""
