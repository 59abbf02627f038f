"""The subcommands of `pgn`: each module holds the arguments and the `run` of one command."""
