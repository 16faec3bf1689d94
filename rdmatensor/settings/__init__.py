"""Settings from users and the environment, checked: addresses, secrets, names, numbers of seconds."""
