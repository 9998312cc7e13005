"""shared/redis/lua."""
