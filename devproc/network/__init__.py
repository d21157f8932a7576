"""Networks: what is at the other end of a network card's wire, the same for every card."""
