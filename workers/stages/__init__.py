"""workers/stages."""
