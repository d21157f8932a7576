"""Guest images: what `orchestrator image` builds."""
