"""shared/quota."""
