"""``orchestrator trace``: what harts and devices do with each other, live."""
