"""The keys of vm.toml, table by table; ``orchestrator.schema`` puts them together."""
