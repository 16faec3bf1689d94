"""The guest's half: the boot scripts, the network setup, and the agent that runs a command. None of
it runs outside.
"""
