"""workers/delivery."""
