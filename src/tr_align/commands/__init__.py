"""The commands of `tr-align`, one module a group. `register(commands)` adds them to the parser."""
