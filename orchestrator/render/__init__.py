"""A VM's plan as what a container engine starts: Compose, Kubernetes."""
