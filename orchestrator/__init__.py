"""The command line, `vm.toml`, the plan, and the supervision of the processes."""
