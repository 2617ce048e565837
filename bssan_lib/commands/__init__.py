"""The commands of `bssan`, a module a group; each has `add_commands(parser)`."""
