"""The stub that gdb talks to: its remote serial protocol over a socket, with harts as threads (manual, appendix E)."""
