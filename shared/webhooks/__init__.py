"""shared/webhooks."""
