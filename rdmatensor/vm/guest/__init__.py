"""The guest's half: what boots, how its network is laid, and the agent that runs a command. None of it runs outside."""
