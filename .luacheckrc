-- Lua as Redis and Valkey run it: Lua 5.1 without the doors of its sandbox. `python -m tools.lint_lua` reads this.
stds.redis = { read_globals = { "redis", "KEYS", "ARGV", "cjson", "cmsgpack", "bit", "struct" } }
std = "lua51+redis"
not_globals = { "io", "package", "require", "module", "dofile", "loadfile", "print", "debug", "coroutine" }
max_line_length = 120
