"""What a process of ours gives up before it serves a guest: files, system calls, privileges (docs/security.md)."""
