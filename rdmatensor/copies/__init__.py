"""One-sided copies between local memory and a peer's memory."""
