"""Figures, each from a run of this moment, with the peer's figure beside it where there is a peer."""
