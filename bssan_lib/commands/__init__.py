"""The commands of `bssan`, one module for each group; each module has a function `add_commands`."""
