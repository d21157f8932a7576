"""ivshmem: memory that machines and host programs share, and doorbells between them."""
